"""The built production image, file by file, without a boot; skipped where none is built."""

import functools
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
import zstandard

from podvm import gpt, pe, verity
from podvm.build import EPOCH, PYTHON_MINOR
from podvm.places import IMAGE, OUTPUT, PROJECT
from podvm.reproducible import MAX_COMPRESSED

BUILT: Final = OUTPUT / "production"
PYTHON_TREES: Final = (f"usr/lib/python3.{PYTHON_MINOR}", "opt/coco/lib")
MAGIC_3_13: Final = (3571).to_bytes(2, "little") + b"\r\n"
UNCHECKED: Final = 0b01
"""Flags of byte code that is compared with nothing (PEP 552)."""

pytestmark = pytest.mark.skipif(
    not (BUILT / "sha256sums").exists() or shutil.which("unsquashfs") is None,
    reason="the image is not built here (make image), or no unsquashfs (squashfs-tools)",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root enters the image's tree")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """An entry of the table: where it is, in bytes, and its UUIDs."""

    name: str
    offset: int
    size: int
    kind: str
    unique: str


@functools.cache
def partitions() -> dict[str, Partition]:
    """The raw disk's partitions by name."""
    with (BUILT / "podvm.raw").open("rb") as file:
        file.seek(2 * gpt.SECTOR)
        table = file.read(128 * 128)
    found = {}
    for start in range(0, len(table), 128):
        entry = table[start : start + 128]
        if any(entry[:16]):
            first, last = struct.unpack("<QQ", entry[32:48])
            name = entry[56:].decode("utf-16-le").rstrip("\0")
            found[name] = Partition(
                name=name,
                offset=first * gpt.SECTOR,
                size=(last - first + 1) * gpt.SECTOR,
                kind=str(UUID(bytes_le=entry[:16])),
                unique=str(UUID(bytes_le=entry[16:32])),
            )
    return found


def content(name: str) -> bytes:
    """The bytes of a partition."""
    part = partitions()[name]
    with (BUILT / "podvm.raw").open("rb") as file:
        file.seek(part.offset)
        return file.read(part.size)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root file system, unpacked from the disk; devices and owners are left out."""
    place = tmp_path_factory.mktemp("image") / "root"
    done = subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-offset",
         str(partitions()["podvm-root"].offset), "-dest", str(place), str(BUILT / "podvm.raw")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert place.is_dir(), done.stderr
    yield place
    shutil.rmtree(place, ignore_errors=True)


def files(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder."""
    for directory, names, others in os.walk(folder):
        for name in [*names, *others]:
            yield Path(directory, name)


def archived(archive: bytes) -> set[str]:
    """The names in a cpio archive of the form `newc`."""
    names, position = set(), 0
    while archive[position : position + 6] == b"070701":
        size, length = (
            int(archive[position + start : position + start + 8], 16) for start in (54, 94)
        )
        name = archive[position + 110 : position + 110 + length - 1].decode()
        names.add(name)
        position += -(-(110 + length) // 4) * 4
        position += -(-size // 4) * 4
    return names


def test_the_digests_of_all_outputs_are_the_recorded_ones() -> None:
    lines = (BUILT / "sha256sums").read_text().splitlines()
    names = {line.split()[1] for line in lines}
    assert {"podvm.raw", "podvm.qcow2", "podvm.vhd", "uki.efi", "manifest.json"} <= names
    for line in lines:
        digest, name = line.split()
        with (BUILT / name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest, name


def test_the_compressed_image_is_within_its_limit() -> None:
    assert (BUILT / "podvm.qcow2").stat().st_size <= MAX_COMPRESSED


def test_the_root_hash_is_on_the_measured_command_line_and_proves_every_block() -> None:
    recorded = (BUILT / "roothash").read_text().strip()
    words = pe.sections((BUILT / "uki.efi").read_bytes())[".cmdline"].decode().split()
    assert [word for word in words if word.startswith("roothash=")] == [f"roothash={recorded}"]
    assert words[1:] == (IMAGE / "cmdline").read_text().split()
    data, hashes = content("podvm-root"), content("podvm-root-verity")
    head = hashes[: verity.BLOCK]
    blocks = struct.unpack("<Q", head[72:80])[0]
    salt = head[88 : 88 + struct.unpack("<H", head[80:82])[0]]
    tree = verity.hash_tree(data[: blocks * verity.BLOCK], salt=salt)
    assert tree.root.hex() == recorded
    assert hashes[verity.BLOCK :].startswith(tree.tree)


def test_the_partitions_are_found_by_the_root_hash_and_end_with_the_disk() -> None:
    digits = (BUILT / "roothash").read_text().strip()
    parts = partitions()
    assert list(parts) == ["esp", "podvm-root", "podvm-root-verity"]
    assert parts["podvm-root"].unique == str(UUID(digits[:32]))
    assert parts["podvm-root-verity"].unique == str(UUID(digits[32:]))
    assert parts["esp"].kind == gpt.ESP
    with (BUILT / "podvm.raw").open("rb") as file:
        file.seek(-gpt.SECTOR, os.SEEK_END)
        assert file.read(8) == b"EFI PART"
    assert (BUILT / "uki.efi").read_bytes() in content("esp")


def test_nothing_listed_as_foreign_is_missing_unsaid(root: Path) -> None:
    document = json.loads((BUILT / "manifest.json").read_text())
    for name in ("kata-agent", "agent-protocol-forwarder"):
        there = (root / "usr/local/bin" / name).exists()
        assert there == (name not in document["units_off"])
        assert there == (name in {program["name"] for program in document["programs"]})


@pytest.mark.spec("podvm-image", 29)
def test_the_agents_policy_is_there_before_the_agent(root: Path, tmp_path: Path) -> None:
    link = root / "etc/kata-opa/default-policy.rego"
    assert str(link.readlink()) == "/run/peerpod/policy.rego"
    kind, target, _, _, _, _, source = (root / "etc/tmpfiles.d/policy.conf").read_text().split()
    assert (kind, target) == ("C", str(link.readlink()))
    assert (root / source.lstrip("/")).read_text().startswith("#")
    # kata-agent and its path unit keep the default dependency on sysinit.target, which is after
    # systemd-tmpfiles-setup.
    units = root / "usr/lib/systemd/system"
    for name in ("kata-agent.path", "kata-agent.service"):
        assert "DefaultDependencies" not in (units / name).read_text()
    setup = (units / "systemd-tmpfiles-setup.service").read_text()
    assert re.search(r"^Before=.*\bsysinit\.target\b", setup, re.MULTILINE)
    assert (units / "sysinit.target.wants/systemd-tmpfiles-setup.service").is_symlink()


@pytest.mark.spec("podvm-image", 36)
def test_nothing_but_the_stub_extends_pcr_11(root: Path) -> None:
    units = root / "usr/lib/systemd/system"
    names = {path.name for path in units.glob("systemd-pcr*") if "pcrlock" not in path.name}
    assert {"systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
            "systemd-pcrphase-initrd.service", "systemd-pcrmachine.service"} <= names  # fmt: skip
    for name in names:
        masked = root / "etc/systemd/system" / name
        assert masked.is_symlink(), name
        assert str(masked.readlink()) == "/dev/null", name
    # The initrd has no systemd, and so no such unit.
    packed = pe.sections((BUILT / "uki.efi").read_bytes())[".initrd"]
    initrd = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    names = archived(initrd)
    assert {"init", "bin/busybox"} <= names
    assert not [name for name in names if name.endswith((".service", ".target"))]


@pytest.mark.spec("podvm-image", 41)
def test_every_module_has_byte_code_that_is_never_checked(root: Path) -> None:
    seen = 0
    for tree in PYTHON_TREES:
        for source in (root / tree).rglob("*.py"):
            cached = source.parent / "__pycache__" / f"{source.stem}.cpython-3{PYTHON_MINOR}.pyc"
            head = cached.read_bytes()[:8]
            assert head[:4] == MAGIC_3_13, cached
            assert int.from_bytes(head[4:], "little") == UNCHECKED, cached
            seen += 1
        for stale in (root / tree).rglob("*.pyc"):
            name = stale.name.removesuffix(f".cpython-3{PYTHON_MINOR}.pyc")
            assert os.path.lexists(stale.parent.parent / f"{name}.py"), stale
    assert seen > 1000


@pytest.mark.spec("podvm-image", 42)
def test_nothing_is_in_the_image_that_builds_installs_or_lets_in(root: Path) -> None:
    forbidden = re.compile(
        r"(pip3?|gcc|cc|c\+\+|ld|as|make|sshd|apt(-.*)?|dpkg(-.*)?|perl.*)(-?[0-9.]+)?"
    )
    for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/coco/bin"):
        bad = [p.name for p in (root / folder).iterdir() if forbidden.fullmatch(p.name)]
        assert not bad, folder
    for name in ("pip", "setuptools", "ensurepip"):
        assert not list(root.glob(f"**/{name}/__init__.py")), name
    for folder in ("var/lib/dpkg", "var/lib/apt", "var/cache/apt", "etc/apt"):
        assert not (root / folder).exists(), folder
    # Nothing of the disk is mounted but the root, which is a squashfs; /var is a tmpfs.
    assert (root / "etc/fstab").read_text() == ""
    assert content("podvm-root")[:4] == b"hsqs"
    words = (IMAGE / "cmdline").read_text().split()
    assert {"systemd.volatile=state", "systemd.gpt_auto=no"} <= set(words)
    assert not list((root / "etc/systemd/system").glob("*.mount"))
    persistent = {p.name for p in (root / "usr/lib/systemd/system").glob("*.mount")}
    assert persistent <= {
        "tmp.mount", "run-lock.mount", "dev-hugepages.mount", "dev-mqueue.mount",
        "proc-sys-fs-binfmt_misc.mount",
        "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount",
        "sys-kernel-tracing.mount",
    }  # fmt: skip


@pytest.mark.spec("podvm-image", 43)
def test_wheels_are_those_of_the_locks_and_no_file_is_newer_than_the_epoch(root: Path) -> None:
    locked = set()
    for name in (f"py3{PYTHON_MINOR}.txt", "tpm.txt"):
        text = (PROJECT / "requirements" / name).read_text("utf-8")
        locked |= set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    wheels = json.loads((BUILT / "manifest.json").read_text())["wheels"]
    outside = {wheel["name"] for wheel in wheels if wheel["sha256"] not in locked}
    # Ours, and the one that exists as source alone: built once and kept, its hash is recorded.
    assert outside == {"coco_guest", "tpm2_pytss"}
    installed = {
        path.name.removesuffix(".dist-info").lower().replace("_", "-")
        for path in (root / "opt/coco").rglob("*.dist-info")
    }
    named = {f"{w['name']}-{w['version']}".lower().replace("_", "-") for w in wheels}
    assert installed == named
    newer = [path for path in files(root) if path.lstat().st_mtime > EPOCH]
    assert not newer


def our_units() -> list[str]:
    """The units of the tree, templates by their instance."""
    names = sorted(path.name for path in (IMAGE / "tree/usr/lib/systemd/system").iterdir())
    return [name.replace("@.", "@podns.") for name in names]


def inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the image in its own tree."""
    return subprocess.run(
        ["chroot", str(root), *command], capture_output=True, text=True, timeout=120, check=False
    )


@needs_root
def test_the_images_systemd_finds_nothing_wrong_with_our_units(root: Path) -> None:
    done = inside(root, "systemd-analyze", "verify", "--recursive-errors=no", *our_units())
    ours = {name.replace("@podns.", "@.") for name in our_units()}
    absent = json.loads((BUILT / "manifest.json").read_text())["units_off"]
    said = [
        line
        for line in done.stderr.splitlines()
        if any(name in line for name in ours)
        and not any(f"Command /usr/local/bin/{name} is not executable" in line for name in absent)
    ]
    assert not said


@needs_root
@pytest.mark.parametrize(
    ("unit", "limit"),
    [("attestation-agent", 2.0), ("api-server-rest", 2.0), ("confidential-data-hub", 5.5)],
)
def test_the_exposure_of_each_service_is_within_its_limit(
    root: Path, unit: str, limit: float
) -> None:
    done = inside(root, "systemd-analyze", "security", "--offline=yes", f"{unit}.service")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= limit


def test_no_account_says_on_which_day_the_image_was_built(root: Path) -> None:
    path = root / "etc/shadow"
    if not os.access(path, os.R_OK):
        pytest.skip("only root reads the unpacked shadow")
    days = {line.split(":")[2] for line in path.read_text().splitlines()}
    assert days <= {str(EPOCH // 86400), ""}


def test_no_account_has_a_password(root: Path) -> None:
    path = root / "etc/shadow"
    if not os.access(path, os.R_OK):
        pytest.skip("only root reads the unpacked shadow")
    assert all(line.split(":")[1] in ("*", "!*", "!") for line in path.read_text().splitlines())
