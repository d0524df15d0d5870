"""A ttRPC connection, either role: the same events however the bytes are cut, and no growth."""

from typing import Final

from guest.ttrpc.connection import (
    Connection,
    Event,
    RequestReceived,
    Role,
    StreamKind,
)

SEEDS: Final = (
    bytes.fromhex("0000000000000001010000000002000000030300ffff"),
    bytes.fromhex(
        "000000080000000b01020a03732e5312014d000000030000000b03000a0178000000000000000b0305"
    ),
    bytes.fromhex("00400001000000250100") + b"\x00" * 40,
    bytes.fromhex("000000020000000102000a0000000000000000010200"),
    bytes.fromhex("ffffffff000000010100"),
)


def _events(role: Role, data: bytes, size: int) -> tuple[list[Event], int]:
    connection = Connection(role)
    if role is Role.CLIENT:
        for number in range(8):
            kind = StreamKind.STREAMING if number % 2 else StreamKind.UNARY
            connection.open_stream(b"", kind=kind)
    events: list[Event] = []
    for start in range(0, len(data), size):
        connection.feed(data[start : start + size])
        while (event := connection.next_event()) is not None:
            events.append(event)
            if isinstance(event, RequestReceived) and event.flags & 2:
                connection.accept_streaming(event.stream_id)
    return events, connection.active


def one_input(data: bytes) -> None:
    """Both roles, whole and in pieces."""
    for role in Role:
        whole = _events(role, data, max(1, len(data)))
        assert whole == _events(role, data, 1 + len(data) % 11)
        assert len(whole[0]) <= len(data) // 10 + 1
