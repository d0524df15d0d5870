"""The build of one image variant, step by step."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from podvm import archive, binaries, disk, gpt, initrd, python_tree, requirements, tpm_wheel, tree
from podvm.errors import ImageError
from podvm.manifest import Contents, Program, Wheel, manifest, spdx
from podvm.measurements import predict
from podvm.packages import Lock, Wanted
from podvm.places import IMAGE, PROJECT, cache
from podvm.run import chroot, run

EPOCH: Final = 1735689600
"""Seconds: every time in the image, the start of 2025."""

VARIANTS: Final = ("production", "debug", "smoke")
PYTHON_MINOR: Final = 13
DISKS: Final = ("podvm.raw", "podvm.qcow2", "podvm.vhd", "uki.efi", "roothash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may differ between builds.

    Attributes:
        variant: one of `VARIANTS`.
        output: directory of the results.
        binaries: directory with kata-agent, agent-protocol-forwarder, pause_bundle, or None.
        authorized_keys: file of the keys with which root may come in by ssh; for `debug` only.
    """

    variant: str
    output: Path
    binaries: Path | None = None
    authorized_keys: Path | None = None


def build(options: Options) -> Path:
    """Build a variant; give the directory of its results.

    Raises:
        ImageError: any step failed; keys are missing, or given to a variant without ssh.
    """
    if options.authorized_keys is not None:
        if options.variant != "debug":
            raise ImageError(f"the variant {options.variant} has no ssh, hence no authorized keys")
        if not options.authorized_keys.is_file():
            raise ImageError(f"{options.authorized_keys} is missing")
    os.umask(0o022)
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    tools = step("tools tree", lambda: cached_tree(lock, "tools"))
    packages = "debug" if options.variant == "debug" else "image"
    base = step("base tree", lambda: cached_tree(lock, packages))
    unpacked = step("kernel and stub", lambda: unpack(lock))
    root = tools / "stage/root"
    tree.remove(tools / "stage")
    (tools / "stage").mkdir()
    run(["cp", "-a", "--reflink=auto", base, root])
    version = step("root tree", lambda: furnish(root, unpacked, options))
    programs = step("programs of others", lambda: furnish_programs(root, options))
    wheels = step("python", lambda: furnish_python(root, tools))
    step("trim", lambda: finish(root))
    packed = step("squashfs and verity", lambda: disk.pack_root(tools, epoch=EPOCH))
    uki = step("unified kernel", lambda: kernel_image(root, unpacked, version, packed, options))
    esp = disk.efi_partition(tools, uki, epoch=EPOCH)
    output = options.output / options.variant
    output.mkdir(parents=True, exist_ok=True)
    step("disks", lambda: write_disks(output, esp, packed))
    (output / "uki.efi").write_bytes(uki)
    (output / "roothash").write_text(packed.root_hash.hex() + "\n")
    contents = Contents(
        variant=options.variant,
        epoch=EPOCH,
        kernel=version,
        root_hash=packed.root_hash.hex(),
        packages=(*lock.sets[packages], *lock.sets["unpacked"]),
        wheels=wheels,
        measurements=predict(uki, partition_sectors(output / "podvm.raw")),
        units_off=binaries.units_off(programs),
        outputs=digests(output, DISKS),
        programs=programs,
    )
    write_documents(output, contents)
    tree.remove(tools / "stage")
    return output


def partition_sectors(raw: Path) -> bytes:
    """The sectors of a disk that hold its partition table."""
    with raw.open("rb") as file:
        return file.read(34 * gpt.SECTOR)


def digests(output: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files by name."""
    found = {}
    for name in names:
        with (output / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def write_documents(output: Path, contents: Contents) -> None:
    """manifest.json, measurements.json, sbom.spdx.json and sha256sums."""
    (output / "manifest.json").write_text(manifest(contents))
    (output / "measurements.json").write_text(json.dumps(contents.measurements, indent=1) + "\n")
    (output / "sbom.spdx.json").write_text(spdx(contents))
    names = (*DISKS, "manifest.json", "measurements.json", "sbom.spdx.json")
    sums = digests(output, names)
    (output / "sha256sums").write_text("".join(f"{sums[n]}  {n}\n" for n in sorted(names)))


_T = TypeVar("_T")


def step(name: str, work: Callable[[], _T]) -> _T:
    """Run one step; say how long it took."""
    started = time.monotonic()
    result = work()
    print(f"{time.monotonic() - started:6.1f} s  {name}", file=sys.stderr, flush=True)
    return result


def cached_tree(lock: Lock, name: str) -> Path:
    """The bootstrapped tree of a package set; made when the lock changed."""
    packages = lock.sets[name]
    key = hashlib.sha256("".join(p.sha256 for p in packages).encode()).hexdigest()[:16]
    base = cache() / "trees"
    place = base / f"{name}-{key}"
    if place.exists():
        return place
    base.mkdir(parents=True, exist_ok=True)
    archive.fetch(packages, cache() / "debs")
    repository = cache() / f"repository-{name}"
    source = archive.offer(packages, cache() / "debs", repository)
    fresh = base / f"{name}.new"
    tree.bootstrap(fresh, release=lock.release, packages=packages, source=source, epoch=EPOCH)
    tree.remove(repository)
    fresh.rename(place)
    return place


def unpack(lock: Lock) -> Path:
    """Kernel, stub and busybox, unpacked into one directory of the cache."""
    packages = lock.sets["unpacked"]
    key = hashlib.sha256("".join(p.sha256 for p in packages).encode()).hexdigest()[:16]
    place = cache() / "trees" / f"unpacked-{key}"
    if not place.exists():
        archive.fetch(packages, cache() / "debs")
        fresh = place.with_suffix(".new")
        tree.remove(fresh)
        for package in packages:
            run(["dpkg-deb", "--extract", cache() / "debs" / package.file, fresh])
        fresh.rename(place)
    return place


def furnish(root: Path, unpacked: Path, options: Options) -> str:
    """Kernel modules and our files; give the kernel's version."""
    (modules,) = (unpacked / "usr/lib/modules").iterdir()
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name, symlinks=True)
    chroot(root, ["depmod", "-a", modules.name])
    names = (IMAGE / "directories").read_text("utf-8").split()
    tree.make_directories(names, root)
    overlays = ["tree"]
    if options.variant != "production":
        overlays.append(f"tree-{options.variant}")
    for name in overlays:
        tree.overlay(IMAGE / name, root)
    if options.authorized_keys is not None:
        (root / "root/.ssh").mkdir(exist_ok=True)
        shutil.copy(options.authorized_keys, root / "root/.ssh/authorized_keys")
    tree.settle(root)
    return modules.name


def furnish_programs(root: Path, options: Options) -> tuple[Program, ...]:
    """kata-agent, its forwarder and the pause bundle, as far as there are any; say which."""
    found = binaries.install(
        root,
        options.binaries,
        binaries.read_pinned(IMAGE / "binaries.toml"),
        binaries.Store(cache=cache() / "blobs"),
    )
    for line in binaries.report(found):
        print(f"          {line}", file=sys.stderr, flush=True)
    return found


def furnish_python(root: Path, tools: Path) -> tuple[Wheel, ...]:
    """Libraries of the lock and our own wheel below the fixed prefix; give what was installed."""
    wheels = cache() / f"wheels-py3{PYTHON_MINOR}"
    lock = PROJECT / "requirements" / f"py3{PYTHON_MINOR}.txt"
    entries = requirements.runtime(lock.read_text("utf-8"))
    names = {entry.name for entry in entries}
    tpm = PROJECT / "requirements/tpm.txt"
    entries += tuple(entry for entry in tpm_wheel.runtime(tpm) if entry.name not in names)
    part = python_tree.fetch_wheels(entries, minor=PYTHON_MINOR, wheels=wheels)
    own = python_tree.build_wheel(PROJECT, out=cache() / "own", epoch=EPOCH)
    library = tpm_wheel.wheel(tpm, tools=tools, cache=cache())
    python_tree.install(
        root,
        part=part,
        wheels=wheels,
        extra=[own, library],
        minor=PYTHON_MINOR,
        scripts=python_tree.console_scripts(PROJECT / "pyproject.toml"),
    )
    python_tree.check_imports(root)
    installed = [python_tree.wheel_of(entry, wheels) for entry in entries] + [own, library]
    return tuple(
        Wheel(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for path in installed
    )


def finish(root: Path) -> None:
    """Trim, byte-compile, normalise; what must exist empty is made last."""
    tree.trim(root)
    python_tree.compile_all(root, minor=PYTHON_MINOR)
    (root / "etc/machine-id").touch()
    (root / "etc/hostname").write_text("podvm\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/resolv.conf")
    tree.normalise(root)


def kernel_image(
    root: Path, unpacked: Path, version: str, packed: disk.Root, options: Options
) -> bytes:
    """The unified kernel image; its command line holds the root hash."""
    words = (IMAGE / "cmdline").read_text("utf-8").split()
    if options.variant == "debug":
        words += (IMAGE / "cmdline-debug").read_text("utf-8").split()
    archive_bytes = initrd.build(
        tree=root,
        busybox=unpacked / "usr/bin/busybox",
        script=IMAGE / "initrd/init",
        modules=tuple((IMAGE / "initrd/modules").read_text("utf-8").split()),
        version=version,
    )
    release = (root / "usr/lib/os-release").read_text("utf-8")
    return disk.unified_kernel(
        stub=(unpacked / "usr/lib/systemd/boot/efi/linuxx64.efi.stub").read_bytes(),
        kernel=(unpacked / f"boot/vmlinuz-{version}").read_bytes(),
        initrd=archive_bytes,
        cmdline=" ".join([f"roothash={packed.root_hash.hex()}", *words]),
        os_release=release.encode(),
        version=version,
    )


def write_disks(output: Path, esp: bytes, packed: disk.Root) -> None:
    """The disk in its three forms."""
    raw = output / "podvm.raw"
    disk.write_raw(raw, esp=esp, root=packed)
    disk.write_qcow2(raw, output / "podvm.qcow2")
    disk.write_vhd(raw, output / "podvm.vhd")


def relock() -> None:
    """Resolve packages.toml anew and write packages.lock.json."""
    wanted = Wanted.decode((IMAGE / "packages.toml").read_text("utf-8"))
    work = cache() / "resolver"
    tree.remove(work)
    lock = archive.resolve(wanted, work=work)
    tree.remove(work)
    (IMAGE / "packages.lock.json").write_text(lock.encode(), "utf-8")
