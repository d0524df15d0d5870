"""A DNS server inside the guest that knows one address, for a registry with a name.

Source: RFC 1035.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from podvm.probes.report import expected, run

ADDRESS: Final = "127.0.0.2"
TTL: Final = 60
"""Seconds that an answer may be kept."""

_HEADER: Final = struct.Struct(">HHHHHH")


def answer(query: bytes, address: str) -> bytes:
    """The answer to a query: this address for every name of the type A, nothing for others.

    Args:
        query: one question.
        address: IPv4.
    """
    (identifier,) = struct.unpack_from(">H", query)
    end = query.index(b"\0", _HEADER.size) + 5
    question = query[_HEADER.size : end]
    found = question[-4:] == struct.pack(">HH", 1, 1)
    head = _HEADER.pack(identifier, 0x8180, 1, int(found), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, TTL, 4) + socket.inet_aton(address)
    return head + question + (record if found else b"")


@contextmanager
def server() -> Iterator[None]:
    """The guest's resolver asks this server while it is there."""
    host = str(expected()["kbs_address"]).split(":")[0]
    link = run(["ip", "-o", "route", "show", "default"]).split(" dev ")[1].split()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((ADDRESS, 53))

        def serve() -> None:
            try:
                while True:
                    query, client = peer.recvfrom(4096)
                    peer.sendto(answer(query, host), client)
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        run(["resolvectl", "dns", link, ADDRESS])
        try:
            yield
        finally:
            run(["resolvectl", "revert", link])
