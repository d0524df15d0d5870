"""Extended headers of a POSIX tar: records, times, sparse maps. Sans-I/O.

Source: POSIX.1-2017 pax, "pax Extended Header"; docs/spec/image-pull.md §12.3-8 and -11.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from guest.errors import DecodeError

XATTR_PREFIX: Final = b"SCHILY.xattr."
APPLIED: Final = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime"))
"""Records that change what an entry is."""
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


def verify_global(records: list[tuple[bytes, bytes]]) -> None:
    """Check that a global header changes no entry: some readers apply it, others do not.

    Raises:
        DecodeError: it does.
    """
    for key, _ in records:
        if key in APPLIED or key.startswith((XATTR_PREFIX, b"GNU.sparse.")):
            raise DecodeError(f"global tar header sets {key[:40]!r} for all entries")


def verify_not_empty(values: Mapping[bytes, bytes]) -> None:
    """Check that no record is there to take back another: readers differ in what is left.

    Raises:
        DecodeError: one is.
    """
    if b"" in values.values():
        for key in APPLIED:
            if values.get(key) == b"":
                raise DecodeError(f"PAX record {key!r} is empty")


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
    """The sparse map, after checking that it ascends to the end and names the stored bytes.

    Raises:
        DecodeError: it does not.
    """
    position = total = 0
    for offset, length in segments:
        if offset < position or offset + length > size:
            raise DecodeError("sparse map overlaps or exceeds the file")
        position = offset + length
        total += length
    if position != size:
        raise DecodeError(f"sparse map ends at {position} of {size} bytes")
    if total != stored:
        raise DecodeError(f"sparse map names {total} bytes, {stored} are stored")
    return tuple(segment for segment in segments if segment[1])


class SparseVersion(Enum):
    """Where the map of a PAX sparse file is."""

    RECORDS = auto()
    """In the extended header: formats 0.0 and 0.1."""
    HEAD_OF_DATA = auto()
    """Before the stored bytes: format 1.0."""


def sparse_version(values: Mapping[bytes, bytes]) -> SparseVersion:
    """The format that the records state; none is 0.x.

    Raises:
        DecodeError: no known one.
    """
    stated = values.get(b"GNU.sparse.major"), values.get(b"GNU.sparse.minor")
    if stated == (b"1", b"0"):
        return SparseVersion.HEAD_OF_DATA
    if stated in ((None, None), (b"0", b"0"), (b"0", b"1")):
        return SparseVersion.RECORDS
    raise DecodeError("sparse tar entry has an unknown version")


def sparse_size(values: Mapping[bytes, bytes]) -> int:
    """Bytes of a sparse file, holes included.

    Raises:
        DecodeError: none is stated, it is no number, or two are stated that differ.
    """
    stated = {values[k] for k in (b"GNU.sparse.realsize", b"GNU.sparse.size") if k in values}
    if len(stated) != 1:
        raise DecodeError("sparse tar entry does not state its size, or states two")
    return parse_decimal(stated.pop(), "sparse size")


def sparse_0x_map(records: list[tuple[bytes, bytes]]) -> list[Segment]:
    """The map of PAX sparse formats 0.0 (repeated records) and 0.1 (one list).

    Raises:
        DecodeError: a number or the count of pairs is missing, malformed or wrong.
    """
    numbers: list[bytes] = []
    count = b""
    for key, value in records:
        if key == b"GNU.sparse.map":
            numbers = value.split(b",") if value else []
        elif key == b"GNU.sparse.numblocks":
            count = value
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(numbers) % 2 == 0):
                raise DecodeError("sparse records are out of order")
            numbers.append(value)
    pairs = _pairs(numbers)
    if parse_decimal(count, "count of the sparse map") != len(pairs):
        raise DecodeError("sparse map has not as many pairs as it states")
    return pairs


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
