"""TCG2 crypto-agile event logs, as firmware writes them into the CCEL table. Sans-I/O.

Source: docs/spec/attesters.md 1.5 and 2.1 (TCG PC Client Platform Firmware Profile, 10.2).
"""

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from guest.errors import DecodeError
from guest.wire import Cursor

NO_ACTION: Final = 3
"""TCG event type `EV_NO_ACTION`: of the header."""

MAX_LOG_BYTES: Final = 4 * 1024 * 1024
MAX_DIGESTS: Final = 16
"""Most digests of one event, and algorithms of one header."""

MARKER_BYTES: Final = 8
END_MARKER: Final = b"\xff" * MARKER_BYTES

DIGEST_BYTES: Final[Mapping[int, int]] = {0x04: 20, 0x0B: 32, 0x0C: 48, 0x0D: 64, 0x12: 32}
"""Algorithm to the bytes of a digest: SHA-1, SHA-256, SHA-384, SHA-512, SM3."""

SYNTHETIC_HEADER: Final = b"".join(
    (
        struct.pack("<II20xI", 0, NO_ACTION, 37),
        struct.pack("<16xII", 0, 0),
        struct.pack("<IHHHH", 2, 0x0C, 48, 0x12, 32),
        b"\0",
    )
)
"""Header of a log of ours without firmware's: announces SHA-384 and SM3."""


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event.

    Attributes:
        register: index of the measurement register.
        kind: TCG event type.
        digests: algorithm and digest, in the log's order.
        data: what happened.
    """

    register: int
    kind: int
    digests: tuple[tuple[int, bytes], ...]
    data: bytes


class EventLog(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed log.

    Attributes:
        length: bytes up to the end of the last event; what follows is padding.
        events: without the header.
    """

    length: int
    events: tuple[LogEvent, ...]


def parse_log(data: bytes) -> EventLog:
    """Parse a log up to its end marker: eight bytes all ones or all zeros, or its end.

    Raises:
        DecodeError: a field is cut short, or an algorithm is unknown.
    """
    if len(data) > MAX_LOG_BYTES:
        raise DecodeError(f"event log of {len(data)} bytes, expected at most {MAX_LOG_BYTES}")
    cursor = Cursor(data, "event log")
    sizes = DIGEST_BYTES
    if data[4:8] == NO_ACTION.to_bytes(4, "little"):
        sizes = _read_header(cursor)
    events: list[LogEvent] = []
    while not _is_end(data, cursor.offset):
        events.append(_read_event(cursor, sizes))
    return EventLog(length=cursor.offset, events=tuple(events))


def _is_end(data: bytes, offset: int) -> bool:
    marker = data[offset : offset + MARKER_BYTES]
    return not marker.strip(b"\xff") or not marker.strip(b"\0")


def _read_header(cursor: Cursor) -> Mapping[int, int]:
    """Digest sizes that the Spec ID event announces."""
    cursor.take(4 + 4 + 20)
    header = Cursor(cursor.take(cursor.unsigned(4, little=True)), "Spec ID event")
    header.take(24)
    count = header.unsigned(4, little=True)
    if count > MAX_DIGESTS:
        raise DecodeError(f"Spec ID event of {count} algorithms, expected at most {MAX_DIGESTS}")
    sizes = {}
    for _ in range(count):
        algorithm, size = header.unsigned(2, little=True), header.unsigned(2, little=True)
        if DIGEST_BYTES.get(algorithm, size) != size:
            raise DecodeError(f"Spec ID event gives algorithm {algorithm:#x} {size} bytes")
        sizes[algorithm] = size
    header.take(header.unsigned(1))
    header.finish()
    return sizes


def _read_event(cursor: Cursor, sizes: Mapping[int, int]) -> LogEvent:
    register, kind = cursor.unsigned(4, little=True), cursor.unsigned(4, little=True)
    count = cursor.unsigned(4, little=True)
    if count > MAX_DIGESTS:
        raise DecodeError(f"event of {count} digests, expected at most {MAX_DIGESTS}")
    digests = []
    for _ in range(count):
        algorithm = cursor.unsigned(2, little=True)
        if algorithm not in sizes:
            raise DecodeError(f"Missing digest size for algorithm: {algorithm:#x}")
        digests.append((algorithm, cursor.take(sizes[algorithm])))
    data = cursor.take(cursor.unsigned(4, little=True))
    return LogEvent(register=register, kind=kind, digests=tuple(digests), data=data)
