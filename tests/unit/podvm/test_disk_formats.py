"""Partition table, VHD footer, cpio archive and PE file, read back by what is not ours."""

import json
import struct
import subprocess
from pathlib import Path
from shutil import which

import pytest

from podvm import cpio, gpt, pe, vhd
from podvm.errors import ImageError

TABLE = [
    gpt.Partition(
        name="esp", type_uuid=gpt.ESP, uuid="11111111-2222-3333-4444-555555555555", size=5
    ),
    gpt.Partition(
        name="podvm-root",
        type_uuid=gpt.ROOT,
        uuid="2fad7ce6-433d-8840-71b1-5f465570c7f4",
        size=3 * 1024 * 1024,
    ),
]


def program(name: str) -> str:
    found = which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_partition_table_is_read_by_sfdisk(tmp_path: Path) -> None:
    layout = gpt.lay_out(TABLE, disk_uuid="0e9a6fe0-68f6-408c-bbeb-136054d20445")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.write(layout.head)
        file.seek(layout.size - len(layout.tail))
        file.write(layout.tail)
    command = [program("sfdisk"), "--json", str(disk)]

    done = subprocess.run(command, capture_output=True, timeout=60)

    assert done.returncode == 0
    assert done.stderr == b""
    table = json.loads(done.stdout)["partitiontable"]
    assert table["id"].lower() == "0e9a6fe0-68f6-408c-bbeb-136054d20445"
    assert [p["name"] for p in table["partitions"]] == ["esp", "podvm-root"]
    assert [p["start"] * 512 for p in table["partitions"]] == list(layout.offsets)
    assert [p["size"] for p in table["partitions"]] == [2048, 6144]
    assert table["partitions"][1]["uuid"].lower() == TABLE[1].uuid


def test_a_partition_name_of_more_than_36_characters_is_refused() -> None:
    long = gpt.Partition(name="x" * 37, type_uuid=gpt.ESP, uuid=TABLE[0].uuid, size=1)

    with pytest.raises(ImageError):
        gpt.lay_out([long], disk_uuid=TABLE[0].uuid)


def test_the_vhd_footer_has_a_true_checksum_and_the_size() -> None:
    size = 64 * 1024 * 1024
    footer = vhd.footer(size, uuid=bytes(range(16)))

    assert len(footer) == 512
    assert footer.startswith(b"conectix")
    assert struct.unpack_from(">QQ", footer, 40) == (size, size)
    (checksum,) = struct.unpack_from(">I", footer, 64)
    assert checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF


def test_a_vhd_is_taken_by_qemu(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    disk = tmp_path / "disk.vhd"
    with disk.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(vhd.footer(size, uuid=bytes(16)))
    command = [program("qemu-img"), "info", "--output=json", "-f", "vpc", str(disk)]

    done = subprocess.run(command, capture_output=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "vpc"


@pytest.mark.parametrize(("size", "padded"), [(0, 0), (1, 1 << 20), (1 << 20, 1 << 20)])
def test_a_cloud_gets_whole_mebibytes(size: int, padded: int) -> None:
    assert vhd.padded_size(size) == padded


def test_the_archive_is_read_by_bsdtar_with_parents_before_children(tmp_path: Path) -> None:
    archive = tmp_path / "initrd"
    archive.write_bytes(
        cpio.encode({"a/b/c": cpio.file(b"data"), "bin/sh": cpio.symlink("busybox")})
    )
    command = [program("bsdtar"), "-tvf", str(archive)]

    done = subprocess.run(command, capture_output=True, timeout=60)

    names = [line.split()[8] for line in done.stdout.decode().splitlines()]
    assert names == ["a", "a/b", "a/b/c", "bin", "bin/sh"]
    assert b"bin/sh -> busybox" in done.stdout


def stub() -> bytes:
    """The smallest 64-bit PE file with one section and room for more."""
    head = bytearray(1024)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 64)
    head[64:68] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", head, 68, 0x8664, 1, 7, 0, 0, 240, 0x22)
    struct.pack_into("<H", head, 88, 0x20B)
    struct.pack_into("<II", head, 88 + 32, 4096, 512)
    struct.pack_into("<II", head, 88 + 56, 8192, 1024)
    struct.pack_into("<I", head, 88 + 108, 16)
    struct.pack_into("<8sIIIIIIHHI", head, 328, b".text", 16, 4096, 512, 1024, 0, 0, 0, 0, 0x60)
    return bytes(head) + b"code".ljust(512, b"\0")


def test_sections_added_to_a_stub_are_read_back() -> None:
    image = pe.add_sections(stub(), {".cmdline": b"quiet", ".linux": b"k" * 5000})

    read = pe.sections(image)
    assert read[".cmdline"] == b"quiet"
    assert read[".linux"] == b"k" * 5000
    assert read[".text"].startswith(b"code")
    headers = pe.Headers.decode(image)
    ends = [section.address + section.size for section in headers.sections]
    starts = [section.address for section in headers.sections[1:]]
    assert all(start >= end and start % 4096 == 0 for start, end in zip(starts, ends, strict=False))


def test_the_time_stamp_is_cleared_and_equal_parts_give_equal_files() -> None:
    one, other = (pe.add_sections(stub(), {".linux": b"kernel"}) for _ in range(2))

    assert one == other
    assert one[72:76] == bytes(4)


def test_the_signed_hash_covers_content_but_not_the_checksum() -> None:
    image = bytearray(pe.add_sections(stub(), {".linux": b"kernel"}))
    before = pe.authenticode(bytes(image))
    struct.pack_into("<I", image, 88 + 64, 0x1234)

    assert pe.authenticode(bytes(image)) == before
    image[-512] ^= 1
    assert pe.authenticode(bytes(image)) != before


def test_a_header_without_room_is_refused() -> None:
    many = {f".s{number}": b"x" for number in range(40)}

    with pytest.raises(ImageError):
        pe.add_sections(stub(), many)


@pytest.mark.parametrize("data", [b"", b"MZ", b"MZ" + bytes(62), stub()[:330], stub()[:1100]])
def test_what_is_no_pe_file_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        pe.Headers.decode(data)
