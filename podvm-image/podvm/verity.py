"""dm-verity, format 1: the hash tree of a file system, its superblock, partition UUIDs. Sans-I/O.

SHA-256, blocks of 4096 bytes for data and hashes.

Source: docs/spec/podvm-image.md 14.5, 18.4, 18.6; kernel documentation, dm-verity.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from podvm.errors import ImageError

BLOCK: Final = 4096
"""Bytes of a data block and of a hash block."""

_PER_BLOCK: Final = BLOCK // 32
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """A hash tree.

    Attributes:
        root: the root hash, 32 bytes.
        tree: the levels, top first, without a superblock.
    """

    root: bytes
    tree: bytes


def hash_tree(data: bytes, *, salt: bytes) -> Verity:
    """Hash data whose length is a positive multiple of 4096 bytes.

    Raises:
        ImageError: any other length.
    """
    if not data or len(data) % BLOCK:
        raise ImageError(f"{len(data)} bytes are no whole number of verity blocks")
    seed = hashlib.sha256(salt)
    levels: list[bytes] = []
    level = data
    while len(level) > BLOCK:
        digests = bytearray()
        view = memoryview(level)
        for offset in range(0, len(level), BLOCK):
            leaf = seed.copy()
            leaf.update(view[offset : offset + BLOCK])
            digests += leaf.digest()
        digests += bytes(-len(digests) % BLOCK)
        level = bytes(digests)
        levels.append(level)
    return Verity(root=hashlib.sha256(salt + level).digest(), tree=b"".join(reversed(levels)))


def superblock(*, blocks: int, salt: bytes, uuid: bytes) -> bytes:
    """The first hash block: what `veritysetup open` reads the parameters from.

    Args:
        blocks: data blocks.
        salt: at most 256 bytes.
        uuid: 16 bytes.
    """
    head = _SUPERBLOCK.pack(
        b"verity\0\0", 1, 1, uuid, b"sha256", BLOCK, BLOCK, blocks, len(salt), salt
    )
    return head + bytes(BLOCK - len(head))


def partition_uuids(root: bytes) -> tuple[str, str]:
    """The UUIDs of the root and the verity partition, from the two halves of the root hash."""
    text = root.hex()
    halves = (text[:32], text[32:])
    first, second = (f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in halves)
    return first, second
