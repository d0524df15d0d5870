"""One tar header block: its fields and what they say of an entry. Sans-I/O.

Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual "Basic Tar Format";
docs/spec/image-pull.md §12.3.
"""

from contextlib import suppress
from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import adler32

from guest.errors import DecodeError
from image_pull.layers import pax
from image_pull.layers.pax import NANOSECONDS, Segment

BLOCK: Final = 512
GNU_SPARSE: Final = ord("S")
GNU_MAGIC: Final = b"ustar  \0"
MAX_ID: Final = (1 << 32) - 2
"""Highest uid and gid; one more means "leave it" to the kernel."""


class Kind(Enum):
    """What an entry makes."""

    REGULAR = auto()
    HARD_LINK = auto()
    SYMLINK = auto()
    CHARACTER = auto()
    BLOCK = auto()
    DIRECTORY = auto()
    FIFO = auto()


KINDS: Final = {
    0x31: Kind.HARD_LINK,
    0x32: Kind.SYMLINK,
    0x33: Kind.CHARACTER,
    0x34: Kind.BLOCK,
    0x35: Kind.DIRECTORY,
    0x36: Kind.FIFO,
}
"""Type flags; every other one is a regular file, as POSIX has it."""

PLAIN: Final = {0x30: Kind.REGULAR, 0x35: Kind.DIRECTORY}
"""Type flags of the entries that `plain_entry` is for."""


class Entry(NamedTuple):
    """One member of the archive; its name is as written.

    Attributes:
        size: bytes of the file, holes included; 0 for all but regular files.
        mtime: nanoseconds since the epoch, may be negative.
        segments: where the data of a sparse file goes; None for any other.
    """

    kind: Kind
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    atime: int
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    segments: tuple[Segment, ...] | None


def text(field: bytes) -> bytes:
    """The bytes of a field before its first NUL."""
    return field.split(b"\0", 1)[0]


def number(field: bytes, what: str) -> int:
    """A numeric field: octal text, or base 256 when its first bit is set."""
    digits = field[:-1]
    if digits.isdigit() and field[-1] in b"\0 ":
        # the form that all writers of today have
        try:
            return int(digits, 8)
        except ValueError:
            return _octal(digits, what)
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        return value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
    digits = field.lstrip(b" \0").split(b"\0", 1)[0].rstrip(b" ")
    if not digits:
        return 0
    return _octal(digits, what)


def _octal(digits: bytes, what: str) -> int:
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            pass
    raise DecodeError(f"{what} in a tar header is not a number: {digits[:24]!r}")


def in_range(value: int, limit: int, what: str) -> int:
    """`value`, if it is from 0 to `limit`.

    Raises:
        DecodeError: it is not.
    """
    if not 0 <= value <= limit:
        raise DecodeError(f"{what} is out of range: {value}")
    return value


def verify_checksum(header: bytes) -> None:
    """Compare the stated checksum, which some old writers made of signed bytes.

    Raises:
        DecodeError: it does not match.
    """
    field = header[148:156]
    stated = number(field, "checksum")
    unsigned = _sum(header) - sum(field) + 256
    if stated == unsigned:
        return
    signed = unsigned - 256 * sum(1 for b in header[:148] + header[156:] if b > 127)
    if stated != signed:
        raise DecodeError("checksum of a tar header does not match")


def _sum(header: bytes) -> int:
    """Of all bytes: the low half of Adler-32 is 1 more, exact for up to 256 of them."""
    return (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2


def header_name(header: bytes) -> bytes:
    """The name in the header itself, with a ustar prefix."""
    name = text(header[:100])
    if header[345] and header[257:263] == b"ustar\0":
        # star keeps times in the last 24 bytes of the prefix and says so
        prefix = text(header[345:476] if header[508:512] == b"tar\0" else header[345:500])
        if prefix:
            return prefix + b"/" + name
    return name


def link_target(header: bytes) -> bytes:
    """What the header itself says that the entry links to; empty for nothing."""
    return text(header[157:257]) if header[157] else b""


class Common(NamedTuple):
    """What a header has in common with most others of its archive: see `common_fields`.

    Attributes:
        flag: the type flag.
        link: what the entry links to; empty for nothing.
        owner: mode, uid and gid of a file or directory; None for other types, and for malformed
            fields, which an extended header may replace.
        prefix: of the name, with its slash; mostly empty.
        total: what these fields add to the checksum, the blanks in its own place included.
    """

    flag: int
    link: bytes
    owner: tuple[int, int, int] | None
    prefix: bytes
    total: int


@lru_cache(maxsize=64)
def common_fields(fields: bytes) -> Common | None:
    """Mode, owner, and everything from the type flag on.

    Args:
        fields: 24 bytes from offset 100 of a header and 356 from 156.

    Returns:
        None where `verify_gnu` refuses.
    """
    header = bytes(100) + fields[:24] + bytes(24) + b" " * 8 + fields[24:]
    owner = None
    try:
        verify_gnu(header)
    except DecodeError:
        return None
    if header[156] in PLAIN:
        with suppress(DecodeError):
            owner = _mode_and_owner(fields[:24])
    return Common(header[156], link_target(header), owner, header_name(header), _sum(header))


def read_header(header: bytes) -> Common:
    """The common fields of a header, after its checksum and what GNU tar writes are verified.

    Raises:
        DecodeError: the checksum does not match, or `verify_gnu` refuses.
    """
    common = common_fields(header[100:124] + header[156:])
    stated = header[148:154]
    if common is not None and header[154:156] == b"\0 " and stated.isdigit():
        # six digits, NUL and blank: the form that POSIX asks for
        total = common.total + _sum(header[:100] + header[124:148])
        if b"%06o" % total == stated:
            return common
    verify_checksum(header)
    verify_gnu(header)
    assert common is not None
    return common


def plain_entry(header: bytes, common: Common) -> Entry | None:
    """A file or directory that has no extended header, in the form that all writers of today use.

    Args:
        header: the block.
        common: its `common_fields`.

    Returns:
        None for any other form, and for what is wrong: `stored_size` and `decode_entry` say what.
    """
    flag, link, owner, prefix, _ = common
    stored = header[124:135]
    if owner is None or not stored.isdigit() or header[135] not in b"\0 ":
        return None
    name = prefix + header[:100].split(b"\0", 1)[0]
    kind = PLAIN[flag]
    try:
        size = int(stored, 8)
        mtime = _mtime(header[136:148])
    except (ValueError, DecodeError):
        return None
    if size if kind is Kind.DIRECTORY else name.endswith(b"/"):
        return None
    mode, uid, gid = owner
    return Entry(kind, name, link, mode, uid, gid, size, mtime, mtime, 0, 0, {}, None)


def verify_gnu(header: bytes) -> None:
    """Check that a GNU header has in its own fields only what GNU tar writes there.

    Old Go writers put a prefix where GNU tar keeps times, and some readers apply a sparse map
    whatever the type: what such a header means depends on who reads it.

    Raises:
        DecodeError: it has something else there.
    """
    if header[257:265] != GNU_MAGIC:
        if header[156] == GNU_SPARSE:
            raise DecodeError("sparse tar entry has no GNU header")
        return
    for start in (345, 357):
        number(header[start : start + 12], "time")
    if header[156] != GNU_SPARSE and any(header[386:495]):
        raise DecodeError("tar header has a sparse map and is not of that type")


def stored_size(header: bytes, values: dict[bytes, bytes]) -> int:
    """Bytes stored for the entry.

    Raises:
        DecodeError: not a number in range.
    """
    if b"size" in values:
        return pax.parse_decimal(values[b"size"], "size")
    return in_range(number(header[124:136], "size"), pax.MAX_SIZE, "size")


def decode_entry(
    kind: Kind,
    header: bytes,
    values: dict[bytes, bytes],
    *,
    name: bytes,
    link: bytes,
    size: int,
    xattrs: dict[bytes, bytes],
) -> Entry:
    """An entry of the fields in its header and of what is known of it already.

    Args:
        kind: what the type flag says.
        header: the block.
        values: PAX records that are not empty; they go before the header's fields.
        name: as written.
        link: as written.
        size: bytes of the file.
        xattrs: by name.

    Raises:
        DecodeError: a field is malformed or out of range.
    """
    major = minor = 0
    if kind is Kind.CHARACTER or kind is Kind.BLOCK:
        major = number(header[329:337], "device number")
        minor = number(header[337:345], "device number")
    if b"mtime" in values:
        mtime = pax.parse_time(values[b"mtime"])
    else:
        mtime = _mtime(header[136:148])
    atime = pax.parse_time(values[b"atime"]) if b"atime" in values else mtime
    if b"uid" in values or b"gid" in values:
        mode = number(header[100:108], "mode") & 0o7777
        uid = _id(header[108:116], values.get(b"uid"), "uid")
        gid = _id(header[116:124], values.get(b"gid"), "gid")
    else:
        mode, uid, gid = _mode_and_owner(header[100:124])
    return Entry._make(
        (kind, name, link, mode, uid, gid, size, mtime, atime, major, minor, xattrs, None)
    )


@lru_cache(maxsize=64)
def _mtime(field: bytes) -> int:
    """Nanoseconds of the field, which many entries of an archive have in common."""
    return number(field, "mtime") * NANOSECONDS


@lru_cache(maxsize=64)
def _mode_and_owner(fields: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid: three fields that most entries of an archive have in common."""
    mode = number(fields[:8], "mode") & 0o7777
    return mode, _id(fields[8:16], None, "uid"), _id(fields[16:], None, "gid")


def _id(field: bytes, record: bytes | None, what: str) -> int:
    if record is not None:
        return pax.parse_decimal(record, what, MAX_ID)
    return in_range(number(field, what), MAX_ID, what)
