"""A GUID partition table for a disk with 512-byte sectors. Sans-I/O.

Source: UEFI specification 2.10, section 5.
"""

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from podvm.errors import ImageError

SECTOR: Final = 512
ALIGNMENT: Final = 1024 * 1024
"""Bytes to whose multiples partitions start and end; the first starts there."""

ESP: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT: Final = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_VERITY: Final = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
"""Partition types: EFI system, root of x86-64, its verity hashes."""

_ENTRIES: Final = 128
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_TABLE_SECTORS: Final = _ENTRIES * _ENTRY.size // SECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What one partition is to be.

    Attributes:
        name: at most 36 characters.
        type_uuid: one of the types above.
        uuid: its own.
        size: bytes; rounded up to `ALIGNMENT` on the disk.
    """

    name: str
    type_uuid: str
    uuid: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A table ready to be written.

    Attributes:
        size: bytes of the whole disk.
        offsets: where each partition starts, in bytes.
        head: from byte 0 of the disk: protective MBR, header, entries.
        tail: the last bytes of the disk: entries, backup header.
    """

    size: int
    offsets: tuple[int, ...]
    head: bytes
    tail: bytes


def lay_out(partitions: Sequence[Partition], *, disk_uuid: str) -> Layout:
    """Place partitions one after the other.

    Raises:
        ImageError: a name is too long, or there are too many partitions.
    """
    if len(partitions) > _ENTRIES:
        raise ImageError(f"{len(partitions)} partitions are too many")
    offset, offsets, entries = ALIGNMENT, [], b""
    for partition in partitions:
        size = _aligned(partition.size)
        entries += _entry(partition, first=offset // SECTOR, last=(offset + size) // SECTOR - 1)
        offsets.append(offset)
        offset += size
    size = offset + ALIGNMENT
    entries += bytes(_ENTRIES * _ENTRY.size - len(entries))
    last = size // SECTOR - 1
    table, disk = zlib.crc32(entries), uuid.UUID(disk_uuid).bytes_le
    usable = (2 + _TABLE_SECTORS, last - 1 - _TABLE_SECTORS)
    main = _header(own=1, other=last, usable=usable, disk=disk, entries=2, table=table)
    backup = _header(
        own=last, other=1, usable=usable, disk=disk, entries=last - _TABLE_SECTORS, table=table
    )
    return Layout(
        size=size,
        offsets=tuple(offsets),
        head=_protective_mbr(last) + main + entries,
        tail=entries + backup,
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _entry(partition: Partition, *, first: int, last: int) -> bytes:
    name = partition.name.encode("utf-16-le")
    if len(name) > 72:
        raise ImageError(f"partition name {partition.name} is too long")
    kind = uuid.UUID(partition.type_uuid).bytes_le
    return _ENTRY.pack(kind, uuid.UUID(partition.uuid).bytes_le, first, last, 0, name)


def _header(
    *, own: int, other: int, usable: tuple[int, int], disk: bytes, entries: int, table: int
) -> bytes:
    def pack(checksum: int) -> bytes:
        return _HEADER.pack(
            b"EFI PART", 0x10000, _HEADER.size, checksum, 0, own, other, *usable, disk,
            entries, _ENTRIES, _ENTRY.size, table,
        )  # fmt: skip

    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")


def _protective_mbr(last: int) -> bytes:
    size = min(last, 0xFFFFFFFF)
    record = struct.pack("<B3sB3sII", 0, b"\0\x02\0", 0xEE, b"\xff\xff\xff", 1, size)
    return (bytes(446) + record).ljust(510, b"\0") + b"\x55\xaa"


def partitions(table: bytes) -> list[tuple[str, int, int]]:
    """Name, first byte and end of every partition of a table.

    Args:
        table: the first 34 sectors of the disk.
    """
    found = []
    for at in range(2 * SECTOR, 34 * SECTOR, 128):
        entry = table[at : at + 128]
        if any(entry[:16]):
            first, last = struct.unpack_from("<QQ", entry, 32)
            name = entry[56:].decode("utf-16-le").rstrip("\0")
            found.append((name, first * SECTOR, (last + 1) * SECTOR))
    return found
