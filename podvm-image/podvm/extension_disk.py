"""The disk of an extension image: `python -m podvm.extension_disk TREE OUTPUT`.

A file system of a tree, its hash tree behind it, and the line that the guest's kernel gets to check
it; every byte follows from the tree. The tree must bring its interpreter: the guest has none.

Source: docs/spec/podvm-image.md 13.1, 13.3.
"""

import argparse
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from podvm import extension, verity
from podvm.disk import SEED
from podvm.errors import ImageError
from podvm.run import run

IMAGE_NAME: Final = "kata-containers-coco-extension.img"
PARAMETERS_NAME: Final = "root_hash_coco-extension.txt"
MIB: Final = 1024 * 1024
GRANULE: Final = 128 * MIB
"""Disks are a whole number of these."""

MAX_SIZE: Final = 16 * GRANULE
SALT: Final = bytes(32)
_SECTOR: Final = 512
_LINUX: Final = 0x83
_BOOT: Final = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the two partitions are, in bytes.

    Attributes:
        size: of the disk.
        data: start of the first; it ends where the second starts.
        hashes: start of the second; it ends with the disk.
    """

    size: int
    data: int
    hashes: int


def lay_out(length: int) -> Layout:
    """The smallest disk for a file system.

    Args:
        length: of the file system, bytes.

    Raises:
        ImageError: it is empty or would need more than `MAX_SIZE`.
    """
    for size in range(GRANULE, MAX_SIZE + 1, GRANULE):
        hashes = size * 99 // 100 // MIB * MIB
        if 0 < length <= hashes - MIB:
            return Layout(size=size, data=MIB, hashes=hashes)
    raise ImageError(f"{length} bytes are nothing for an extension disk")


def boot_record(layout: Layout) -> bytes:
    """The first sector: an MBR with both partitions, the first one marked as active."""
    signature = uuid5(SEED, "extension").bytes[:4]
    spans = ((layout.data, layout.hashes), (layout.hashes, layout.size))
    entries = b""
    for flag, (start, end) in zip((_BOOT, 0), spans, strict=True):
        first, count = start // _SECTOR, (end - start) // _SECTOR
        head, tail = _cylinders(first), _cylinders(first + count - 1)
        entries += struct.pack("<B3sB3sII", flag, head, _LINUX, tail, first, count)
    return bytes(440) + signature + bytes(2) + entries.ljust(64, b"\0") + b"\x55\xaa"


def _cylinders(sector: int) -> bytes:
    """An address of 255 heads and 63 sectors, as far as it goes."""
    cylinder, rest = divmod(sector, 255 * 63)
    head, inside = divmod(rest, 63)
    if cylinder > 1023:
        cylinder, head, inside = 1023, 254, 62
    return bytes((head, (inside + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF))


def parameters(root: bytes, blocks: int) -> str:
    """What the guest opens the hash tree with, one line."""
    return (
        f"root_hash={root.hex()},salt={SALT.hex()},data_blocks={blocks},"
        f"data_block_size={verity.BLOCK},hash_block_size={verity.BLOCK}\n"
    )


def write(filesystem: bytes, output: Path) -> None:
    """Write disk and parameters of a file system into a directory.

    Raises:
        ImageError: it is too large.
    """
    layout = lay_out(len(filesystem))
    # The tree covers the whole partition, not only what the file system uses of it.
    data = filesystem.ljust(layout.hashes - layout.data, b"\0")
    tree = verity.hash_tree(data, salt=SALT)
    assert len(tree.tree) <= layout.size - layout.hashes
    output.mkdir(parents=True, exist_ok=True)
    with (output / IMAGE_NAME).open("wb") as file:
        file.truncate(layout.size)
        file.write(boot_record(layout))
        file.seek(layout.data)
        file.write(filesystem)
        file.seek(layout.hashes)
        file.write(tree.tree)
    (output / PARAMETERS_NAME).write_text(parameters(tree.root, len(data) // verity.BLOCK))


def pack(tree: Path, work: Path) -> bytes:
    """The file system of a tree, after its manifest was read as the guest reads it.

    Args:
        tree: root of the extension.
        work: a directory for the file.

    Raises:
        ImageError: no manifest, one that is refused, or a file that it names and that is missing.
    """
    try:
        text = (tree / extension.FILE).read_text("utf-8")
    except OSError as error:
        raise ImageError(f"{tree} has no {extension.FILE}") from error
    manifest = extension.decode(text)
    programs = [process.path for process in manifest.process if process.path is not None]
    for process in manifest.process:
        programs += [variant.path for variant in process.variants.values()]
    for name in [*manifest.paths.values(), *programs]:
        if not (tree / name.lstrip("/")).exists():
            raise ImageError(f"{tree} has no {name}, which its manifest names")
    path = work / "extension.erofs"
    unique = str(UUID(bytes=uuid5(SEED, "extension-root").bytes))
    run(["mkfs.erofs", "--quiet", "-zlz4hc", "-Enoinline_data", "--all-root", "-T0", "-U", unique,
         path, tree])  # fmt: skip
    data = path.read_bytes()
    path.unlink()
    return data


def main() -> int:
    """Pack a tree; 1 when it cannot be."""
    parser = argparse.ArgumentParser(prog="podvm.extension_disk", description=__doc__)
    parser.add_argument("tree", type=Path, help="root of the extension")
    parser.add_argument("output", type=Path, help="directory of the results")
    words = parser.parse_args()
    try:
        words.output.mkdir(parents=True, exist_ok=True)
        write(pack(words.tree, words.output), words.output)
    except ImageError as error:
        print(f"podvm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
