"""From a root tree to a disk: squashfs, hash tree, unified kernel image, EFI partition, table."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from podvm import gpt, pe, verity, vhd
from podvm.run import chroot, run

SEED: Final = UUID("0e9a6fe0-68f6-408c-bbeb-136054d20445")
"""All fixed UUIDs come from it."""

SALT: Final = bytes(32)
MIB: Final = 1024 * 1024
ESP_SLACK: Final = 8 * MIB
MIN_ESP: Final = 48 * MIB
"""Bytes: FAT32 needs some 33 MiB."""

LEVEL: Final = "9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root file system with its proof.

    Attributes:
        data: squashfs, padded to whole blocks.
        hashes: superblock and tree.
        root_hash: 32 bytes.
    """

    data: bytes
    hashes: bytes
    root_hash: bytes


def pack_root(tools: Path, *, epoch: int) -> Root:
    """Pack the tree at `/stage/root` of the tools tree."""
    chroot(
        tools,
        ["mksquashfs", "/stage/root", "/stage/root.squashfs", "-noappend", "-quiet", "-no-progress",
         "-all-root", "-no-xattrs", "-no-exports", "-comp", "zstd", "-Xcompression-level", LEVEL,
         "-mkfs-time", str(epoch), "-all-time", str(epoch), "-processors", "2"],
    )  # fmt: skip
    path = tools / "stage/root.squashfs"
    data = path.read_bytes()
    path.unlink()
    data += bytes(-len(data) % verity.BLOCK)
    tree = verity.hash_tree(data, salt=SALT)
    head = verity.superblock(
        blocks=len(data) // verity.BLOCK, salt=SALT, uuid=uuid5(SEED, tree.root.hex()).bytes
    )
    return Root(data=data, hashes=head + tree.tree, root_hash=tree.root)


def unified_kernel(
    *, stub: bytes, kernel: bytes, initrd: bytes, cmdline: str, os_release: bytes, version: str
) -> bytes:
    """The unified kernel image."""
    return pe.add_sections(
        stub,
        {
            ".osrel": os_release,
            ".cmdline": cmdline.encode(),
            ".uname": version.encode(),
            ".initrd": initrd,
            ".linux": kernel,
        },
    )


def efi_partition(tools: Path, uki: bytes, *, epoch: int) -> bytes:
    """A FAT file system that holds the image as `EFI/BOOT/BOOTX64.EFI`."""
    work = tools / "stage"
    (work / "uki.efi").write_bytes(uki)
    os.utime(work / "uki.efi", (epoch, epoch))
    size = max(MIN_ESP, -(-len(uki) // MIB) * MIB + ESP_SLACK)
    with (work / "esp").open("wb") as file:
        file.truncate(size)
    volume = f"{uuid5(SEED, 'esp').int & 0xFFFFFFFF:08x}"
    dated = ["env", f"SOURCE_DATE_EPOCH={epoch}"]
    chroot(tools, ["mkfs.vfat", "--invariant", "-F", "32", "-i", volume, "-n", "ESP", "/stage/esp"])
    chroot(tools, [*dated, "mmd", "-i", "/stage/esp", "::/EFI", "::/EFI/BOOT"])
    chroot(tools, [*dated, "mcopy", "-m", "-i", "/stage/esp", "/stage/uki.efi",
                   "::/EFI/BOOT/BOOTX64.EFI"])  # fmt: skip
    data = (work / "esp").read_bytes()
    (work / "esp").unlink()
    return data


def write_raw(path: Path, *, esp: bytes, root: Root) -> None:
    """The whole disk."""
    root_uuid, verity_uuid = verity.partition_uuids(root.root_hash)
    parts = (
        ("esp", gpt.ESP, str(uuid5(SEED, "esp")), esp),
        ("podvm-root", gpt.ROOT, root_uuid, root.data),
        ("podvm-root-verity", gpt.ROOT_VERITY, verity_uuid, root.hashes),
    )
    layout = gpt.lay_out(
        [gpt.Partition(name=n, type_uuid=t, uuid=u, size=len(d)) for n, t, u, d in parts],
        disk_uuid=str(SEED),
    )
    with path.open("wb") as file:
        file.truncate(layout.size)
        file.write(layout.head)
        for offset, (_, _, _, data) in zip(layout.offsets, parts, strict=True):
            file.seek(offset)
            file.write(data)
        file.seek(layout.size - len(layout.tail))
        file.write(layout.tail)


def write_qcow2(raw: Path, qcow2: Path) -> None:
    """The disk for hypervisors and for clouds that import QCOW2, compressed."""
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o",
         "compression_type=zlib,compat=1.1", raw, qcow2])  # fmt: skip


def write_vhd(raw: Path, path: Path) -> None:
    """The disk for Azure: fixed VHD, a whole number of MiB, the same bytes every time."""
    shutil.copyfile(raw, path)
    size = vhd.padded_size(path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(vhd.footer(size, uuid=uuid5(SEED, "vhd").bytes))
