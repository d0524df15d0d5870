"""Which directories are out of the host's reach."""

import os
from pathlib import Path

import pytest

from image_pull.store.protection import is_protected


def device_of(path: Path) -> str:
    number = os.stat(path).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def mountinfo(path: Path, kind: str) -> bytes:
    return f"30 1 {device_of(path)} / /x rw shared:1 - {kind} src rw\n".encode()


def device(block: Path, name: str, uuid: str | None, *below: str) -> None:
    (block / name / "slaves").mkdir(parents=True)
    for each in below:
        (block / name / "slaves" / each).symlink_to(block / each)
    if uuid is not None:
        (block / name / "dm").mkdir()
        (block / name / "dm" / "uuid").write_text(uuid + "\n")


@pytest.mark.parametrize(
    ("kind", "protected"), [("tmpfs", True), ("ramfs", True), ("ext4", False), ("overlay", False)]
)
def test_memory_is_protected_and_a_disk_is_not(kind: str, protected: bool, tmp_path: Path) -> None:
    assert is_protected(tmp_path, mountinfo(tmp_path, kind), tmp_path / "none") is protected


@pytest.mark.parametrize(
    ("uuid", "protected"),
    [
        ("CRYPT-LUKS2-0123-x", True),
        ("CRYPT-PLAIN-x", True),
        ("CRYPT-VERITY-0123-x", False),
        ("LVM-x", False),
        (None, False),
    ],
)
def test_an_encrypted_device_is_protected_and_a_verified_one_is_not(
    uuid: str | None, protected: bool, tmp_path: Path
) -> None:
    device(tmp_path, device_of(tmp_path), uuid)
    assert is_protected(tmp_path, mountinfo(tmp_path, "ext4"), tmp_path) is protected


def test_a_device_on_encrypted_ones_alone_is_protected(tmp_path: Path) -> None:
    device(tmp_path, "9:1", "CRYPT-LUKS2-x")
    device(tmp_path, "9:2", None)
    device(tmp_path, device_of(tmp_path), "LVM-x", "9:1")
    assert is_protected(tmp_path, b"", tmp_path)
    (tmp_path / device_of(tmp_path) / "slaves" / "9:2").symlink_to(tmp_path / "9:2")
    assert not is_protected(tmp_path, b"", tmp_path)
