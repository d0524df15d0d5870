"""The test machine's system disk: the image's packages, kernel modules, libraries with pytest.

It is made once for every state of the locks and kept in the cache, with tree, kernel and initrd.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podvm import initrd, python_tree, requirements, tree, vm_module
from podvm.build import PYTHON_MINOR, cached_tree, step, unpack
from podvm.packages import Lock
from podvm.places import IMAGE, PROJECT, cache
from podvm.run import chroot, run

RECIPE: Final = "2"
"""Counts changes of this module that change the disk."""

LIBRARIES: Final = ("hypothesis", "pytest", "pytest-timeout")
"""What the tests need on top of the services."""

MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_rng", "squashfs", "overlay")
"""Kernel modules that lead to the system; it loads the others itself."""

PLACE: Final = "project"
"""Where the project lies in the tree, and in the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What a test machine starts from.

    Attributes:
        tree: the unpacked system disk, in which the project's disk is made.
        disk: squashfs.
        kernel: bzImage.
        initrd: compressed archive.
    """

    tree: Path
    disk: Path
    kernel: Path
    initrd: Path


def squash(source: Path, target: Path, *, level: int) -> None:
    """Pack a directory, all of it as root.

    Raises:
        ImageError: mksquashfs is missing or failed.
    """
    target.unlink(missing_ok=True)
    run(
        ["mksquashfs", source, target, "-noappend", "-quiet", "-no-progress", "-all-root",
         "-no-xattrs", "-comp", "zstd", "-Xcompression-level", str(level), "-processors", "2"],
    )  # fmt: skip


def key_of(lock: Lock, libraries: str, script: bytes) -> str:
    """What the system disk depends on, as the name of its directory."""
    packages = (*lock.sets["image"], *lock.sets["unpacked"])
    parts = [
        RECIPE,
        vm_module.key(),
        *(package.sha256 for package in packages),
        *MODULES,
        libraries,
    ]
    return hashlib.sha256("\n".join(parts).encode() + script).hexdigest()[:16]


def system() -> System:
    """The test machine's system, made when there is none for these locks.

    Raises:
        ImageError: any step failed.
    """
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    text = (PROJECT / "requirements" / f"py3{PYTHON_MINOR}.txt").read_text("utf-8")
    entries = requirements.runtime(text, also=LIBRARIES)
    script = IMAGE / "vm-test/initrd"
    key = key_of(lock, "".join(entry.text for entry in entries), script.read_bytes())
    place = cache() / "vm-test" / key
    made = System(
        tree=place / "tree",
        disk=place / "system.squashfs",
        kernel=place / "vmlinuz",
        initrd=place / "initrd",
    )
    if place.exists():
        return made
    base = step("base tree", lambda: cached_tree(lock, "image"))
    unpacked = step("kernel", lambda: unpack(lock))
    tree.remove(place.parent)  # those of older locks
    fresh = place.with_suffix(".new")
    fresh.mkdir(parents=True)
    version = step("system tree", lambda: _furnish(base, unpacked, fresh / "tree"))
    step("kernel module", lambda: _add_module(lock, fresh / "tree", version))
    step("libraries", lambda: _install(fresh / "tree", entries))
    step("system disk", lambda: squash(fresh / "tree", fresh / "system.squashfs", level=3))
    shutil.copy(unpacked / f"boot/vmlinuz-{version}", fresh / "vmlinuz")
    archive = initrd.build(
        tree=fresh / "tree",
        busybox=unpacked / "usr/bin/busybox",
        script=script,
        modules=MODULES,
        version=version,
    )
    (fresh / "initrd").write_bytes(archive)
    fresh.rename(place)
    return made


def _furnish(base: Path, unpacked: Path, root: Path) -> str:
    """Packages and kernel modules; give the kernel's version."""
    run(["cp", "-a", "--reflink=auto", base, root])
    (modules,) = (unpacked / "usr/lib/modules").iterdir()
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name, symlinks=True)
    chroot(root, ["depmod", "-a", modules.name])
    chroot(root, ["systemd-sysusers"])
    tree.trim(root)
    (root / PLACE).mkdir()
    (root / "etc/machine-id").touch()
    (root / "etc/fstab").touch()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    return modules.name


def _add_module(lock: Lock, root: Path, version: str) -> None:
    extra = root / "usr/lib/modules" / version / "extra"
    extra.mkdir()
    vm_module.build(lock, extra / f"{vm_module.NAME}.ko")
    chroot(root, ["depmod", "-a", version])


def _install(root: Path, entries: Sequence[requirements.Requirement]) -> None:
    wheels = cache() / f"wheels-tests-py3{PYTHON_MINOR}"
    part = python_tree.fetch_wheels(entries, minor=PYTHON_MINOR, wheels=wheels)
    python_tree.install(
        root,
        part=part,
        wheels=wheels,
        extra=[],
        minor=PYTHON_MINOR,
        scripts=python_tree.console_scripts(PROJECT / "pyproject.toml"),
    )
    site = root / python_tree.PREFIX / f"lib/python3.{PYTHON_MINOR}/site-packages"
    (site / "project.pth").write_text(f"/{PLACE}\n/{PLACE}/simulator\n")
    python_tree.compile_all(root, minor=PYTHON_MINOR)
