"""What is in the built images, file by file, without booting them.

Source: docs/spec/podvm-image.md 14 and 19.
"""

import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from guest.prepared import prepared
from podvm import gpt, pe
from podvm.build import EPOCH, PYTHON_MINOR
from podvm.errors import ImageError
from podvm.packages import Lock
from podvm.places import IMAGE, PROJECT, cache
from podvm.python_tree import PREFIX
from podvm.run import run
from podvm.smoke.site import Results
from podvm.smoke.table import Result

ABSENT: Final = (
    "usr/bin/gcc*", "usr/bin/cc", "usr/bin/ld", "usr/bin/as", "usr/bin/make", "usr/bin/pip*",
    "usr/bin/apt*", "usr/bin/dpkg*", "usr/sbin/sshd", "usr/lib/apt", "var/lib/apt", "var/lib/dpkg",
    "var/cache/apt", "etc/apt", "usr/lib/python3*/ensurepip", "usr/lib/python3*/*-packages/pip",
    f"{PREFIX}/lib/python3*/site-packages/pip", "usr/lib/gcc", "usr/libexec/gcc",
)  # fmt: skip
"""Patterns that nothing in the image may match."""

STRIPPED: Final = re.compile(
    r"\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$|\.(pyi|pyx|pxd|a|h)$|^[^/]+/tests/"
)
"""Files of wheels that the image does without; see `podvm.python_tree`."""

HASH_BASED: Final = 1
"""Flags of byte code that names its source by hash and never looks at it."""

DERIVED: Final = re.compile(
    r"etc/alternatives/[^/]+|etc/ld\.so\.cache|etc/hosts\.(allow|deny)|etc/ssh/sshd_config"
    r"|etc/(passwd|group|shadow|gshadow)|var/lib/wtmpdb(/wtmp\.db)?|root/\.ssh(/authorized_keys)?"
)
"""What the maintainers' scripts of debug's packages make or add to, and the builder's ssh keys."""

ACCOUNTS: Final = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")
PHASES: Final = "pcrphase"
MAX_INITRD: Final = 256 << 20
"""Bytes of the unpacked initrd."""


class _Wheel(msgspec.Struct):
    file: str
    sha256: str


class _Manifest(msgspec.Struct):
    wheels: list[_Wheel]


def inspect(builds: Path, work: Path) -> Results:
    """Look at the images of production and of the variant with probes.

    Args:
        builds: directory with the variants' results.
        work: for the unpacked trees.

    Raises:
        ImageError: an image is not laid out as ours, or unsquashfs is missing.
    """
    root = unpack(builds / "production/podvm.raw", work / "contents-production")
    smoke = unpack(builds / "smoke/podvm.raw", work / "contents-smoke")
    manifest = (builds / "production/manifest.json").read_bytes()
    uki = (builds / "production/uki.efi").read_bytes()
    looks: Mapping[str, Callable[[], str]] = {
        "policy": lambda: policy(root),
        "phases": lambda: phases(root, uki),
        "bytecode": lambda: byte_code(root),
        "absent": lambda: absent(root),
        "wheels": lambda: wheels(root, manifest),
        "times": lambda: times(root),
        "smoke": lambda: overlay(root, smoke, IMAGE / "tree-smoke"),
    }
    if is_of_same_wheels(builds / "debug/manifest.json", manifest):
        debug = unpack(builds / "debug/podvm.raw", work / "contents-debug")
        looks = {**looks, "debug": lambda: debug_overlay(root, debug)}
    found: Results = {}
    for name, look in looks.items():
        try:
            found[f"contents.{name}"] = Result(good=True, detail=look())
        except (ImageError, OSError) as error:
            found[f"contents.{name}"] = Result(good=False, detail=str(error))
    return found


def unpack(raw: Path, place: Path) -> Path:
    """The root file system of a disk, as a directory.

    Raises:
        ImageError: there is none, or unsquashfs is missing.
    """
    with raw.open("rb") as file:
        table = gpt.partitions(file.read(34 * gpt.SECTOR))
        (span,) = [(first, end) for name, first, end in table if name == "podvm-root"]
        file.seek(span[0])
        packed = place.with_suffix(".squashfs")
        packed.write_bytes(file.read(span[1] - span[0]))
    run(["unsquashfs", "-quiet", "-no-progress", "-dest", place, packed])
    packed.unlink()
    return place


def policy(root: Path) -> str:
    """The Kata agent's default policy is the one below /run, which tmpfiles puts there.

    Raises:
        ImageError: it is another.
    """
    link = os.readlink(root / "etc/kata-opa/default-policy.rego")
    if link != "/run/peerpod/policy.rego":
        raise ImageError(f"the default policy is {link}")
    line = (root / "etc/tmpfiles.d/policy.conf").read_text()
    if "/run/peerpod/policy.rego" not in line or "/etc/kata-opa/allow-all.rego" not in line:
        raise ImageError(f"tmpfiles.d/policy.conf: {line}")
    return link


def phases(root: Path, uki: bytes) -> str:
    """Nothing extends PCR 11 with phases: not in the initrd, not in the system.

    Raises:
        ImageError: something does.
    """
    packed = pe.sections(uki)[".initrd"]
    initrd = zstandard.ZstdDecompressor().decompress(packed, max_output_size=MAX_INITRD)
    if PHASES.encode() in initrd or b".service\0" in initrd:
        raise ImageError("the initrd has units")
    units = [path.name for path in (root / "usr/lib/systemd/system").glob(f"*{PHASES}*.service")]
    for name in units:
        mask = root / "etc/systemd/system" / name
        if not mask.is_symlink() or os.readlink(mask) != "/dev/null":
            raise ImageError(f"{name} is not masked")
    return f"no unit in the initrd, masked: {', '.join(sorted(units)) or 'none to mask'}"


def byte_code(root: Path) -> str:
    """Every module has byte code that is checked against nothing.

    Raises:
        ImageError: some has not.
    """
    count = 0
    for folder in (root / f"usr/lib/python3.{PYTHON_MINOR}", root / PREFIX):
        for path in folder.rglob("*.pyc"):
            flags = int.from_bytes(path.read_bytes()[4:8], "little")
            if flags != HASH_BASED:
                raise ImageError(f"{path.relative_to(root)} has the flags {flags}")
            count += 1
        for path in folder.rglob("*.py"):
            compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-3{PYTHON_MINOR}.pyc"
            if not compiled.exists():
                raise ImageError(f"{path.relative_to(root)} has no byte code")
    if not count:
        raise ImageError("no byte code at all")
    return f"{count} files of byte code, all of them unchecked"


def absent(root: Path) -> str:
    """No compiler, package manager, package list, ssh server; no set-uid program, no fstab.

    Raises:
        ImageError: there is one.
    """
    for pattern in ABSENT:
        if there := next(root.glob(pattern), None):
            raise ImageError(f"/{there.relative_to(root)} is there")
    if (root / "etc/fstab").read_bytes():
        raise ImageError("fstab has lines")
    for path, status in _walk(root):
        if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            raise ImageError(f"{path} runs as somebody else")
        if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IWOTH:
            raise ImageError(f"{path} can be written by all")
    return f"nothing of {len(ABSENT)} patterns, no set-uid program"


def wheels(root: Path, manifest: bytes) -> str:
    """Every wheel is one of the lock's, and its files are in the image as they are in it.

    Our own wheel and the TPM library's, which is built from its locked source, are no wheels of
    the lock; their hashes are the manifest's.

    Raises:
        ImageError: one is not, or a file differs.
    """
    locks = (PROJECT / "requirements" / f"py3{PYTHON_MINOR}.txt", PROJECT / "requirements/tpm.txt")
    locked = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", "".join(p.read_text() for p in locks)))
    site = root / PREFIX / f"lib/python3.{PYTHON_MINOR}/site-packages"
    store = cache() / f"wheels-py3{PYTHON_MINOR}"
    listed = msgspec.json.decode(manifest, type=prepared(_Manifest)).wheels
    built = [wheel.file for wheel in listed if wheel.sha256 not in locked]
    if any(not name.startswith(("coco_guest", "guest", "tpm2_pytss")) for name in built):
        raise ImageError(f"not in the lock: {built}")
    files = 0
    for wheel in listed:
        if wheel.file not in built:
            data = (store / wheel.file).read_bytes()
            if hashlib.sha256(data).hexdigest() != wheel.sha256:
                raise ImageError(f"{wheel.file} changed")
            files += _same(store / wheel.file, site)
    return f"{len(listed) - len(built)} wheels of the lock, {files} files; built: {len(built)}"


def _same(wheel: Path, site: Path) -> int:
    count = 0
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/") or STRIPPED.search(name) or ".data/" in name.split("/")[0] + "/":
                continue
            if (site / name).read_bytes() != archive.read(name):
                raise ImageError(f"{name} of {wheel.name} differs")
            count += 1
    return count


def times(root: Path) -> str:
    """Nothing is newer than the image's time.

    Raises:
        ImageError: something is.
    """
    count = 0
    for path, status in _walk(root):
        count += 1
        if status.st_mtime > EPOCH:
            raise ImageError(f"{path} is newer")
    return f"{count} files not newer than {EPOCH}"


def is_of_same_wheels(path: Path, manifest: bytes) -> bool:
    """Whether there is a build with this manifest, of the same sources."""
    if not path.exists():
        return False
    one, other = (
        msgspec.json.decode(m, type=prepared(_Manifest)) for m in (path.read_bytes(), manifest)
    )
    return one.wheels == other.wheels


def overlay(root: Path, other: Path, declared: Path, packaged: frozenset[str] = frozenset()) -> str:
    """Two images differ by an overlay and by the links that its presets make, in nothing else.

    Args:
        root: one image.
        other: the other one.
        declared: the overlay.
        packaged: paths of packages that the other one has on top.

    Raises:
        ImageError: they differ by more.
    """
    one, two = listing(root), listing(other)
    differing = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    names = {path.relative_to(declared).as_posix() for path in declared.rglob("*")} | packaged
    units = {Path(name).name for name in names}
    links = re.compile(r"etc/systemd/(?:system|user)/[^/]+\.(?:wants|requires)(?:/([^/]+))?$")
    more = [
        name for name in sorted(differing - names)
        if not ((match := links.search(name)) and match[1] in {*units, None})
        and not (packaged and _is_derived(name, root, other))
    ]  # fmt: skip
    if more:
        raise ImageError(f"differ too: {', '.join(more[:10])}")
    return f"{len(differing)} paths differ, all declared by {declared.name}"


def debug_overlay(root: Path, debug: Path) -> str:
    """The variant debug differs from production by its overlay and the packages of its set.

    Raises:
        ImageError: it differs by more, or a package is not in the cache.
    """
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    ours = {package.file for package in lock.sets["image"]}
    added = [package.file for package in lock.sets["debug"] if package.file not in ours]
    packaged = frozenset().union(*(_files_of(cache() / "debs" / name) for name in added))
    said = overlay(root, debug, IMAGE / "tree-debug", packaged)
    return f"{said} and {len(added)} packages"


def _files_of(package: Path) -> set[str]:
    """Paths in a package, below /usr for what was elsewhere before."""
    with tarfile.open(fileobj=io.BytesIO(run(["dpkg-deb", "--fsys-tarfile", package]))) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    return names | {f"usr/{name}" for name in names if name.startswith(("bin/", "sbin/", "lib"))}


def _is_derived(name: str, root: Path, other: Path) -> bool:
    """Whether a maintainer's script makes a path; accounts may only be added."""
    if name in ACCOUNTS:
        before, after = ((place / name).read_text().splitlines() for place in (root, other))
        return set(before) <= set(after)
    path = other / name
    linked = path.is_symlink() and os.readlink(path).startswith("/etc/alternatives/")
    return linked or DERIVED.fullmatch(name) is not None


def listing(root: Path) -> dict[str, tuple[int, str]]:
    """Mode and content (digest or target) of everything in a tree, by path."""
    found = {}
    for name, status in _walk(root):
        path = root / name
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = (status.st_mode, content)
    return found


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            yield os.path.relpath(path, root), os.lstat(path)
