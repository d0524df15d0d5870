"""Devices: found by number or name, told free from used, wiped, their headers copied."""

import os
from pathlib import Path

import pytest

from cdh.storage.base import StorageSite
from cdh.storage.device import copy_header, create, find_device, wipe
from guest.errors import IntegrityError, InvalidInputError
from support.luks_headers import edited, vector


def site_of(base: Path, *, files: bool = True) -> StorageSite:
    return StorageSite(runtime_dir=base, sysfs=base / "sys", dev=base / "dev", accept_files=files)


def uevent(base: Path, numbers: str, text: str) -> None:
    folder = base / "sys" / "dev" / "block" / numbers
    folder.mkdir(parents=True)
    (folder / "uevent").write_text(text)


def test_a_device_number_leads_to_the_node_that_the_kernel_names(tmp_path: Path) -> None:
    uevent(tmp_path, "8:16", "MAJOR=8\nMINOR=16\nDEVNAME=mapper/x-1\nDEVTYPE=disk\n")
    (tmp_path / "dev" / "mapper").mkdir(parents=True)
    (tmp_path / "dev" / "mapper" / "x-1").touch()
    device = find_device(site_of(tmp_path), (8, 16), "/elsewhere")
    assert device.path == f"{tmp_path}/dev/mapper/x-1"
    again = find_device(site_of(tmp_path), None, f"{tmp_path}/dev/mapper/../mapper/x-1")
    assert again.identity == device.identity


@pytest.mark.parametrize("name", ["", "../etc/passwd", "a/../../b", "/dev/x", "a b", "a//b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    uevent(tmp_path, "8:1", f"DEVNAME={name}\n")
    with pytest.raises(InvalidInputError, match="has no name"):
        find_device(site_of(tmp_path), (8, 1), None)
    with pytest.raises(InvalidInputError, match="there is no block device 8:2"):
        find_device(site_of(tmp_path), (8, 2), None)


def test_what_is_no_block_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (str(tmp_path / "file"), str(tmp_path), "/dev/null"):
        with pytest.raises(InvalidInputError, match="is no block device"):
            find_device(site_of(tmp_path, files=False), None, path)
    with pytest.raises(InvalidInputError, match="there is no device"):
        find_device(site_of(tmp_path), None, str(tmp_path / "none"))


@pytest.mark.root
def test_a_node_with_other_numbers_than_were_asked_for_is_refused(tmp_path: Path) -> None:
    if not os.path.exists("/dev/loop0"):
        pytest.skip("no loop devices")
    uevent(tmp_path, "7:1", "DEVNAME=loop0\n")
    site = StorageSite(runtime_dir=tmp_path, sysfs=tmp_path / "sys")
    with pytest.raises(InvalidInputError, match="other numbers"):
        find_device(site, (7, 1), None)
    assert find_device(site, None, "/dev/loop0").numbers == (7, 0)


def test_a_copied_header_is_whole_private_and_new(tmp_path: Path) -> None:
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    slots = bytes(100) + b"slot".ljust(524288 - 100, b"\0")
    disk.write_bytes(vector("attached") + slots + b"data")
    device = find_device(site_of(tmp_path), None, str(disk))
    copy_header(device, copy)
    assert copy.read_bytes() == vector("attached") + slots
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        copy_header(device, copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(1 << 20),
        vector("attached")[:20000],
        vector("attached"),
        edited("attached", "config/keyslots_size", str(1 << 26)),
    ],
)
def test_what_has_no_whole_header_is_refused(tmp_path: Path, content: bytes) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    device = find_device(site_of(tmp_path), None, str(disk))
    with pytest.raises(IntegrityError, match=str(disk)):
        copy_header(device, tmp_path / "copy")


@pytest.mark.parametrize("size", [0, 1000, 1 << 20, (1 << 20) + 7, 18 << 20])
def test_wiping_zeroes_the_header_and_the_end_and_nothing_grows(tmp_path: Path, size: int) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * size)
    wipe(find_device(site_of(tmp_path), None, str(disk)))
    content = disk.read_bytes()
    assert len(content) == size
    assert not content[: min(size, 16 << 20)].strip(b"\0")
    assert not content[-(1 << 20) :].strip(b"\0")
    if size == 18 << 20:
        assert content[16 << 20 : 17 << 20] == b"x" * (1 << 20)


def test_a_new_file_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        create(tmp_path / "link")
    assert not (tmp_path / "target").exists()
