"""Between standard input and output and a TCP port on loopback: what QEMU's `guestfwd` starts.

Usage: relay.py PORT. Needs nothing but the standard library.
"""

import os
import socket
import sys
import threading

CHUNK = 65536
"""Bytes moved at once."""


def main() -> None:
    """Move bytes both ways until both sides have ended."""
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:

        def to_peer() -> None:
            while data := os.read(0, CHUNK):
                peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)

        threading.Thread(target=to_peer, daemon=True).start()
        while data := peer.recv(CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
