"""Extended headers of a POSIX tar: records, times, sparse maps. Sans-I/O.

Source: POSIX.1-2017 pax, "pax Extended Header"; docs/spec/image-pull.md §12.3-8 and -11.
"""

import re
from typing import Final

from guest.errors import DecodeError

XATTR_PREFIX: Final = b"SCHILY.xattr."
NANOSECONDS: Final = 1_000_000_000
MAX_SIZE: Final = (1 << 63) - 1
"""Most bytes that a file may have."""

_DECIMAL: Final = re.compile(rb"[0-9]{1,20}")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")

Segment = tuple[int, int]
"""Offset and length of one run of stored bytes of a sparse file."""


def parse_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records `length SP key=value LF`, in order; a key may come more than once.

    Raises:
        DecodeError: a record's length, form or end is wrong.
    """
    records = []
    position, end = 0, len(data)
    while position < end:
        space = data.find(b" ", position, position + 21)
        digits = data[position:space] if space >= 0 else b""
        if not digits.isdigit():
            raise DecodeError("PAX record has no length")
        stop = position + int(digits)
        equals = data.find(b"=", space + 1, stop)
        if stop > end or equals <= space + 1 or data[stop - 1] != 0x0A or stop - 1 <= space:
            raise DecodeError("PAX record is malformed")
        records.append((data[space + 1 : equals], data[equals + 1 : stop - 1]))
        position = stop
    return records


def parse_decimal(text: bytes, what: str, limit: int = MAX_SIZE) -> int:
    """A plain decimal number from 0 to `limit`; `what` names it in the error.

    Raises:
        DecodeError: not one.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > limit:
        raise DecodeError(f"{what} is not a number in range: {text[:30]!r}")
    return int(text)


def parse_time(text: bytes) -> int:
    """Nanoseconds since the epoch from decimal seconds with an optional fraction.

    Raises:
        DecodeError: not a decimal number.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise DecodeError(f"PAX time is not a number: {text[:30]!r}")
    fraction = int(((match[3] or b"") + b"000000000")[:9])
    value = int(match[2]) * NANOSECONDS + fraction
    return -value if match[1] else value


def xattrs_of(records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Extended attributes by name; values are raw bytes and may be empty."""
    prefix = len(XATTR_PREFIX)
    return {key[prefix:]: value for key, value in records if key.startswith(XATTR_PREFIX)}


def check_segments(segments: list[Segment], stored: int, size: int) -> tuple[Segment, ...]:
    """The sparse map, after checking that it ascends, fits and names exactly the stored bytes.

    Raises:
        DecodeError: it does not.
    """
    position = total = 0
    for offset, length in segments:
        if offset < position or offset + length > size:
            raise DecodeError("sparse map overlaps or exceeds the file")
        position = offset + length
        total += length
    if total != stored:
        raise DecodeError(f"sparse map names {total} bytes, {stored} are stored")
    return tuple(segment for segment in segments if segment[1])


def sparse_0x_map(records: list[tuple[bytes, bytes]]) -> list[Segment]:
    """The map of PAX sparse formats 0.0 (repeated records) and 0.1 (one list).

    Raises:
        DecodeError: a number is missing or malformed.
    """
    numbers: list[bytes] = []
    for key, value in records:
        if key == b"GNU.sparse.map":
            numbers = value.split(b",") if value else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(numbers) % 2 == 0):
                raise DecodeError("sparse records are out of order")
            numbers.append(value)
    return _pairs(numbers)


def sparse_10_lines(data: bytes | bytearray) -> int:
    """How many lines a map of format 1.0 has, from its first one.

    Raises:
        DecodeError: that one is no number.
    """
    return 1 + 2 * parse_decimal(
        bytes(data.partition(b"\n")[0]), "count of the sparse map", 1 << 20
    )


def sparse_10_map(data: bytes) -> list[Segment]:
    """The map of format 1.0: a count, then offsets and lengths, a line each.

    Raises:
        DecodeError: a line is no number or is missing.
    """
    wanted = sparse_10_lines(data)
    lines = data.split(b"\n", wanted)
    if len(lines) <= wanted:
        raise DecodeError("sparse map is cut short")
    return _pairs(lines[1:wanted])


def _pairs(numbers: list[bytes]) -> list[Segment]:
    if len(numbers) % 2:
        raise DecodeError("sparse map has an odd count of numbers")
    values = [parse_decimal(number, "number in a sparse map") for number in numbers]
    return list(zip(values[::2], values[1::2], strict=True))
