"""The LUKS2 header on a disk that a host may write to: read it, pin it to our kind. Sans-I/O.

Nothing in such a header is signed. What protects a volume is that its key opens exactly one kind
of header: one segment under one cipher with one key size, where the volume begins right behind the
header. A header that says anything else (a null cipher, a second segment, a moved one, a token, a
key slot of another size) was not made for this volume and is refused before any key goes near it.

Source: LUKS2 On-Disk Format Specification 1.1.1, sections 2 and 3;
docs/spec/confidential-data-hub.md 10.3.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import msgspec

from guest import jsonio
from guest.errors import DecodeError, IntegrityError

BINARY_LENGTH: Final = 4096
"""Bytes of the binary part of one copy."""

COPY_LENGTHS: Final = tuple(1 << power for power in range(14, 23))
"""Lengths that one copy (binary part and JSON area) may have, in bytes: 16 KiB to 4 MiB."""

MAX_HEADER_LENGTH: Final = 32 * 1024 * 1024
"""Most bytes of a whole header, key slots included; `cryptsetup` makes 16 MiB."""

MAX_DEPTH: Final = 6
MAX_SLOTS: Final = 32
MEBIBYTE: Final = 1 << 20

CIPHER: Final = "aes-xts-plain64"
INTEGRITY: Final = "hmac(sha256)"
KEY_LENGTH: Final = 64
"""Bytes of the volume key without integrity, and of the key of a slot's area."""

INTEGRITY_KEY_LENGTH: Final = 32
"""Bytes that integrity adds to the volume key."""

HASHES: Final = ("sha256", "sha512")
STRIPES: Final = 4000
MIN_ITERATIONS: Final = 1000
MAX_MEMORY: Final = 4 * 1024 * 1024
"""Most KiB that a key derivation may ask for: the limit of `cryptsetup` itself."""

MAX_ITERATIONS: Final = 1 << 32
MAX_THREADS: Final = 4
SECTOR_SIZES: Final = (512, 4096)

FLAGS: Final = frozenset(
    {
        "allow-discards",
        "same-cpu-crypt",
        "submit-from-crypt-cpus",
        "no-journal",
        "no-read-workqueue",
        "no-write-workqueue",
    }
)
"""Flags of the whole volume that change how it is driven and not what is read."""

_MAGICS: Final = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_BINARY: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")
_CHECKSUM: Final = slice(448, 512)

Decimal = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,17})\Z")]
"""A number of bytes, as text."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object in which an unknown member means something that is not known here."""


class Area(Strict, frozen=True):
    """Where a key slot lies, in bytes from the start of the header, and its cipher."""

    type: str
    offset: Decimal
    size: Decimal
    encryption: str
    key_size: int


class Splitter(Strict, frozen=True):
    """The anti-forensic splitter of a key slot."""

    type: str
    stripes: int
    hash: str


class Derivation(Strict, frozen=True):
    """How a key slot's key comes from the passphrase; `memory` in KiB."""

    type: str
    salt: str
    hash: str | None = None
    iterations: int | None = None
    time: int | None = None
    memory: int | None = None
    cpus: int | None = None


class KeySlot(Strict, frozen=True):
    """A wrapped volume key; `key_size` in bytes."""

    type: str
    key_size: int
    af: Splitter
    area: Area
    kdf: Derivation
    priority: int | None = None


class SegmentIntegrity(Strict, frozen=True):
    """The tags that go with the sectors of a segment."""

    type: str
    journal_encryption: str
    journal_integrity: str


class Segment(Strict, frozen=True):
    """Encrypted space; `offset` in bytes from the start of the data device."""

    type: str
    offset: Decimal
    size: str
    iv_tweak: Decimal
    encryption: str
    sector_size: int
    integrity: SegmentIntegrity | None = None


class KeyDigest(Strict, frozen=True):
    """What a volume key is recognised by."""

    type: str
    keyslots: tuple[str, ...]
    segments: tuple[str, ...]
    hash: str
    iterations: int
    salt: str
    digest: str


class HeaderConfig(Strict, frozen=True):
    """Lengths in bytes; `json_size` is that of the JSON area."""

    json_size: Decimal
    keyslots_size: Decimal
    flags: tuple[str, ...] = ()


class Metadata(Strict, frozen=True):
    """The JSON of a header."""

    keyslots: dict[str, KeySlot]
    tokens: dict[str, msgspec.Raw]
    segments: dict[str, Segment]
    digests: dict[str, KeyDigest]
    config: HeaderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Luks2Header:
    """A header whose two copies are whole and say the same.

    Attributes:
        copy_length: bytes of each copy.
        sequence: counts changes.
        metadata: the JSON.
    """

    copy_length: int
    sequence: int
    metadata: Metadata

    @property
    def length(self) -> int:
        """Bytes of the whole header: two copies and the key slots."""
        return 2 * self.copy_length + int(self.metadata.config.keyslots_size)

    @classmethod
    def decode(cls, data: bytes) -> "Luks2Header":
        """Read both copies; bytes behind them are not looked at.

        Args:
            data: from the start of the header, at least both copies.

        Raises:
            DecodeError: no LUKS2 header, cut off, a wrong checksum, or the copies differ.
        """
        copy_length = decode_copy_length(data)
        if len(data) < 2 * copy_length:
            raise DecodeError("the LUKS2 header is cut off")
        first = _decode_copy(data[:copy_length], 0)
        second = _decode_copy(data[copy_length : 2 * copy_length], copy_length)
        if first != second:
            raise DecodeError("the two copies of the LUKS2 header differ")
        sequence, text = first
        return cls(copy_length=copy_length, sequence=sequence, metadata=decode_metadata(text))


def decode_copy_length(data: bytes) -> int:
    """How long each copy of a header is that begins like this, in bytes.

    Raises:
        DecodeError: no LUKS2 header begins like this.
    """
    if len(data) < BINARY_LENGTH:
        raise DecodeError("too short for a LUKS2 header")
    magic, version, copy_length = struct.unpack_from(">6sHQ", data)
    if magic != _MAGICS[0]:
        raise DecodeError("there is no LUKS header")
    if version != 2:
        raise DecodeError(f"the LUKS header has version {version}, not 2")
    if copy_length not in COPY_LENGTHS:
        raise DecodeError("the LUKS2 header has no length that one can have")
    return int(copy_length)


def _decode_copy(data: bytes, offset: int) -> tuple[int, bytes]:
    """Sequence number and JSON text of one copy that starts at `offset`."""
    magic, version, length, sequence, _, algorithm, *_, at, _, checksum = _BINARY.unpack_from(data)
    expected = (_MAGICS[1 if offset else 0], 2, len(data), offset)
    if (magic, version, length, at) != expected:
        raise DecodeError("a copy of the LUKS2 header is not what the first one announces")
    if algorithm.rstrip(b"\0") != b"sha256":
        raise DecodeError("the checksum of the LUKS2 header is not SHA-256")
    blank = bytearray(data)
    blank[_CHECKSUM] = bytes(64)
    if hashlib.sha256(blank).digest().ljust(64, b"\0") != checksum:
        raise DecodeError("the checksum of the LUKS2 header does not match")
    text, _, rest = data[BINARY_LENGTH:].partition(b"\0")
    if rest.strip(b"\0"):
        raise DecodeError("the LUKS2 header has something behind its JSON")
    return sequence, text


def decode_metadata(text: bytes) -> Metadata:
    """Read the JSON of a header; unknown members are refused, except inside tokens.

    Raises:
        DecodeError: not such a document.
    """
    return jsonio.decode(text, Metadata, max_depth=MAX_DEPTH, max_bytes=COPY_LENGTHS[-1])


def verify_pinned(header: Luks2Header, *, detached: bool, integrity: bool | None) -> None:
    """Hold a header to the one kind that this guest makes.

    Args:
        header: what was read.
        detached: the header lies in a file of its own, so that the data begin at offset 0.
        integrity: whether sectors must have tags; None takes both.

    Raises:
        IntegrityError: it is of another kind; says what differs.
    """
    metadata = header.metadata
    if metadata.tokens:
        raise IntegrityError("the LUKS2 header has tokens, which nobody here put there")
    unknown = set(metadata.config.flags) - FLAGS
    if unknown:
        raise IntegrityError(f"the LUKS2 header has flag {min(unknown)[:40]!r}")
    if int(metadata.config.json_size) != header.copy_length - BINARY_LENGTH:
        raise IntegrityError("the JSON area of the LUKS2 header has another length than it says")
    if header.length > MAX_HEADER_LENGTH:
        raise IntegrityError(f"the LUKS2 header has more than {MAX_HEADER_LENGTH} bytes")
    if list(metadata.segments) != ["0"]:
        raise IntegrityError(f"the LUKS2 header has {len(metadata.segments)} segments, not one")
    has_tags = _verify_segment(metadata.segments["0"], header, detached=detached)
    if integrity is not None and integrity is not has_tags:
        raise IntegrityError("the volume has no integrity" if integrity else "it has integrity")
    _verify_slots(metadata.keyslots, header, KEY_LENGTH + INTEGRITY_KEY_LENGTH * has_tags)
    _verify_digests(metadata)


def _require(found: object, expected: object, what: str) -> None:
    if found != expected:
        shown = str(found)[:40]
        raise IntegrityError(f"{what} of the LUKS2 header is {shown!r}, not {str(expected)!r}")


def _verify_segment(segment: Segment, header: Luks2Header, *, detached: bool) -> bool:
    """Whether its sectors have tags."""
    _require(segment.type, "crypt", "the segment's type")
    _require(segment.encryption, CIPHER, "the segment's cipher")
    _require(segment.size, "dynamic", "the segment's size")
    _require(segment.iv_tweak, "0", "the segment's tweak")
    if segment.sector_size not in SECTOR_SIZES:
        raise IntegrityError(f"the LUKS2 header has sectors of {segment.sector_size} bytes")
    rounded = -(-header.length // MEBIBYTE) * MEBIBYTE
    offsets = (0,) if detached else (header.length, rounded)
    if int(segment.offset) not in offsets:
        _require(segment.offset, str(offsets[0]), "the segment's offset")
    if segment.integrity is None:
        return False
    _require(segment.integrity.type, INTEGRITY, "the integrity")
    _require(segment.integrity.journal_encryption, "none", "the journal's cipher")
    _require(segment.integrity.journal_integrity, "none", "the journal's integrity")
    return True


def _verify_slots(slots: Mapping[str, KeySlot], header: Luks2Header, key_length: int) -> None:
    names = {str(number) for number in range(MAX_SLOTS)}
    if not slots or not set(slots) <= names:
        raise IntegrityError("the LUKS2 header has no key slot, or one that cannot be")
    taken: list[tuple[int, int]] = []
    for slot in slots.values():
        _require(slot.type, "luks2", "a key slot's type")
        _require(slot.key_size, key_length, "a key slot's key size")
        _require(slot.area.type, "raw", "a key slot's area")
        _require(slot.area.encryption, CIPHER, "a key slot's cipher")
        _require(slot.area.key_size, KEY_LENGTH, "a key slot's own key size")
        _require((slot.af.type, slot.af.stripes), ("luks1", STRIPES), "a key slot's splitter")
        _verify_hash(slot.af.hash)
        _verify_derivation(slot.kdf)
        start, length = int(slot.area.offset), int(slot.area.size)
        taken.append((start, start + length))
        if start < 2 * header.copy_length or start + length > header.length:
            raise IntegrityError("a key slot lies outside of the LUKS2 header")
        if length < key_length * STRIPES:
            raise IntegrityError("a key slot of the LUKS2 header is too short for its key")
    taken.sort()
    if any(end > start for (_, end), (start, _) in pairwise(taken)):
        raise IntegrityError("two key slots of the LUKS2 header overlap")


def _verify_hash(name: str | None) -> None:
    if name not in HASHES:
        raise IntegrityError(f"the LUKS2 header uses hash {str(name)[:40]!r}")


def _verify_derivation(kdf: Derivation) -> None:
    numbers: tuple[int | None, ...]
    if kdf.type == "pbkdf2":
        _verify_hash(kdf.hash)
        fits = MIN_ITERATIONS <= (kdf.iterations or 0) <= MAX_ITERATIONS
        numbers = (kdf.time, kdf.memory, kdf.cpus)
    elif kdf.type in ("argon2i", "argon2id"):
        fits = (
            1 <= (kdf.time or 0) <= MAX_ITERATIONS
            and 1 <= (kdf.memory or 0) <= MAX_MEMORY
            and 1 <= (kdf.cpus or 0) <= MAX_THREADS
        )
        numbers = (kdf.iterations,)
    else:
        raise IntegrityError(f"the LUKS2 header derives keys with {kdf.type[:40]!r}")
    if not fits or any(number is not None for number in numbers):
        raise IntegrityError("the LUKS2 header's key derivation has impossible costs")


def _verify_digests(metadata: Metadata) -> None:
    if len(metadata.digests) != 1:
        raise IntegrityError(f"the LUKS2 header has {len(metadata.digests)} digests, not one")
    (digest,) = metadata.digests.values()
    _require(digest.type, "pbkdf2", "the digest's type")
    _verify_hash(digest.hash)
    _require(digest.segments, ("0",), "the digest's segment")
    _require(sorted(digest.keyslots), sorted(metadata.keyslots), "the digest's key slots")
    if not MIN_ITERATIONS <= digest.iterations <= MAX_ITERATIONS:
        raise IntegrityError("the LUKS2 header's digest has impossible costs")
