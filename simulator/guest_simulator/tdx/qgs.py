"""A quote generation service on a Unix socket, in vsock's place.

Source: docs/spec/attesters.md 3.5.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HEADER: Final = struct.Struct("<HHIIIII")

Answer = Callable[[bytes], bytes | None]
"""From a TDREPORT to all bytes of the answer; None closes without one."""


def frame(message: bytes) -> bytes:
    """With the length in front."""
    return struct.pack(">I", len(message)) + message


def response(quote: bytes, *, error: int = 0, identity: bytes = b"") -> bytes:
    """The message that carries a quote, or says why there is none."""
    size = HEADER.size + len(identity) + len(quote)
    return HEADER.pack(1, 1, 1, size, error, len(identity), len(quote)) + identity + quote


def report_of(message: bytes) -> bytes:
    """The TDREPORT in a request.

    Raises:
        ValueError: it is none.
    """
    major, _, kind, size, error, length, ids = HEADER.unpack_from(message)
    if (major, kind, size, error, length, ids) != (1, 0, len(message), 0, 1024, 0):
        raise ValueError("not a request for a quote")
    return message[HEADER.size :]


@contextmanager
def serving(path: Path, answer: Answer) -> Iterator[list[bytes]]:
    """Serve until the end of the block; gives the TDREPORTs that were asked about."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(64)
        thread = threading.Thread(
            target=_accept, args=(listener, answer, asked), name="qgs", daemon=True
        )
        thread.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            path.unlink(missing_ok=True)


def _accept(listener: socket.socket, answer: Answer, asked: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            try:
                length = struct.unpack(">I", _receive(connection, 4))[0]
                report = report_of(_receive(connection, length))
                asked.append(report)
                content = answer(report)
                if content is not None:
                    connection.sendall(content)
            except (OSError, ValueError, EOFError):
                continue


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
