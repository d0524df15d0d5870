"""The footer of a fixed VHD: a raw disk followed by these 512 bytes. Sans-I/O.

Source: "Virtual Hard Disk Image Format Specification"; docs/spec/podvm-image.md 10.
"""

import struct
from typing import Final

FOOTER: Final = 512
MIB: Final = 1024 * 1024
_FORMAT: Final = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")


def padded_size(size: int) -> int:
    """The size that a cloud wants: a whole number of MiB."""
    return -(-size // MIB) * MIB


def footer(size: int, *, uuid: bytes) -> bytes:
    """The footer of a disk.

    Args:
        size: bytes of the disk without footer.
        uuid: 16 bytes.
    """
    cylinders, heads, sectors = geometry(size // 512)

    def pack(checksum: int) -> bytes:
        return _FORMAT.pack(
            b"conectix", 2, 0x10000, 0xFFFFFFFFFFFFFFFF, 0, b"coco", 0x10000, b"Wi2k",
            size, size, cylinders, heads, sectors, 2, checksum, uuid, 0,
        )  # fmt: skip

    return pack(~sum(pack(0)) & 0xFFFFFFFF)


def geometry(total: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track for a number of sectors, as the format computes."""
    total = min(total, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    sectors, track = 17, total // 17
    heads = max((track + 1023) // 1024, 4)
    if track >= heads * 1024 or heads > 16:
        sectors, heads, track = 31, 16, total // 31
    if track >= heads * 1024:
        sectors, heads, track = 63, 16, total // 63
    return track // heads, heads, sectors
