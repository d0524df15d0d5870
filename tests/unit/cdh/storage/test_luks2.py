"""LUKS2 volumes: exact command lines, keys on standard input, nothing left of what failed."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdh.storage.luks2 import header_name, is_strong
from guest.errors import (
    DeadlineError,
    IntegrityError,
    PlatformError,
)
from guest.secret import Secret
from support.luks_headers import edited, vector
from support.storage_world import KEY, Call, StorageWorld

FORMAT = ("cryptsetup", "--batch-mode", "luksFormat", "--type", "luks2", "--cipher",
          "aes-xts-plain64", "--sector-size", "4096")  # fmt: skip
INTEGRITY = ("--integrity", "hmac-sha256", "--integrity-no-wipe", "--integrity-no-journal")
FAST = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
KATA_MKFS = "-O ^has_journal -m 0 -i 163840 -I 128"
PERSISTENT = {"key": "kbs:///default/key/1"}


def header_of(world: StorageWorld) -> str:
    return str(world.base / "run" / "luks-headers" / header_name(str(world.device)))


def lines(calls: Sequence[Call]) -> list[tuple[str, ...]]:
    return [call.argv for call in calls]


def opened(world: StorageWorld, *header: str) -> tuple[str, ...]:
    return ("cryptsetup", "luksOpen", "--header", *header, "-d", "-", str(world.device), "m1")


@pytest.mark.spec("confidential-data-hub", 46)
async def test_the_command_lines_are_those_of_the_specification_in_its_order(
    tmp_path: Path,
) -> None:
    def fresh(name: str) -> StorageWorld:
        (tmp_path / name).mkdir()
        return StorageWorld(tmp_path / name)

    world = fresh("device")
    await world.mount(world.options(targetType="device"))
    header, device, node = header_of(world), str(world.device), str(world.base / "mapper" / "m1")
    format_line = (*FORMAT, "--header", header, *FAST, device, "-")
    assert lines(world.calls()) == [format_line, opened(world, header)]
    assert os.readlink(world.place) == node
    assert world.kernel.mounted == []

    world = fresh("ext4")
    await world.mount(world.options(mkfsOpts=KATA_MKFS, dataIntegrity="false"))
    header, device, node = header_of(world), str(world.device), str(world.base / "mapper" / "m1")
    format_line = (*FORMAT, "--header", header, *FAST, device, "-")
    mkfs = ("mkfs.ext4", node, "-F", *KATA_MKFS.split())
    assert lines(world.calls()) == [format_line, opened(world, header), mkfs]
    assert world.kernel.mounted == [(node, world.place, "ext4")]

    world = fresh("integrity")
    await world.mount(world.options(mkfsOpts="-E lazy_journal_init", dataIntegrity="true"))
    header, device, node = header_of(world), str(world.device), str(world.base / "mapper" / "m1")
    assert lines(world.calls()) == [
        (*FORMAT, "--header", header, *INTEGRITY, *FAST, device, "-"),
        opened(world, header),
        ("mkfs.ext4", "-V"),
        ("dd", "--version"),
        ("mkfs.ext4", "-F", "-n", node),
        *(
            ("dd", "if=/dev/zero", f"of={node}", "bs=4k", "count=1", "oflag=direct", f"seek={n}")
            for n in (0, 32768, 98304, 163840)
        ),
        ("mkfs.ext4", node, "-F", "-E", "lazy_journal_init,lazy_itable_init=0"),
    ]

    world = fresh("encrypted")
    world.device.write_bytes(vector("attached").ljust(4 << 20, b"\0"))
    await world.mount(world.options(sourceType="encrypted", key="kbs:///default/key/text"))
    (call,) = world.calls()
    assert call.argv[:3] == ("cryptsetup", "luksOpen", "--header")
    assert call.argv[3].startswith(f"{world.base}/run/luks-headers/")
    assert call.argv[4:] == ("-d", "-", str(world.device), "m1")
    assert call.stdin == b"a passphrase\n"
    assert world.kernel.mounted == [(str(world.base / "mapper" / "m1"), world.place, "ext4")]
    assert world.modes() == {}


@pytest.mark.spec("podvm-image", 15)
@pytest.mark.parametrize("source", ["empty", "encrypted"])
@pytest.mark.parametrize("by_number", [True, False])
async def test_a_device_is_found_by_number_or_path_and_its_mapping_has_the_name_asked_for(
    tmp_path: Path, source: str, by_number: bool
) -> None:
    world = StorageWorld(tmp_path)
    if source == "encrypted":
        world.device.write_bytes(vector("attached").ljust(4 << 20, b"\0"))
    node = tmp_path / "sys" / "dev" / "block" / "253:16"
    node.mkdir(parents=True)
    (node / "uevent").write_text("MAJOR=253\nMINOR=16\nDEVNAME=disk\nDEVTYPE=disk\n")
    where = {"deviceId": "253:16", "devicePath": None} if by_number else {}
    changes = {"sourceType": source, "mapperName": "caa-data", "filesystemType": "ext4"}
    await world.mount(world.options(**where, **changes, **PERSISTENT))
    opening = next(call for call in world.calls() if "luksOpen" in call.argv)
    assert opening.argv[-2:] == (str(world.device), "caa-data")
    assert world.kernel.mounted == [(str(tmp_path / "mapper" / "caa-data"), world.place, "ext4")]


async def test_a_key_is_on_standard_input_and_nowhere_else(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    await world.mount(world.options(**PERSISTENT))
    calls = world.calls()
    device = str(world.device)
    assert calls[0].argv == ("blkid", "-p", device)
    assert calls[1].argv == (*FORMAT, *FAST, device, "-")
    assert [call.stdin for call in calls] == [b"", KEY, KEY, b""]
    for call in calls:
        assert set(call.env) - {"PWD"} == {"LC_ALL", "PATH"}  # the shell adds PWD
        assert call.fds <= 5  # 0, 1, 2 and what `ls` and the shell have open
        seen = "\0".join(call.argv).encode() + repr(call.env).encode()
        assert KEY not in seen


async def test_an_ephemeral_key_is_new_each_time_and_long(tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        world = StorageWorld(tmp_path / name)
        await world.mount(world.options())
        calls = world.calls()
        assert calls[0].stdin == calls[1].stdin
        assert len(calls[0].stdin) == 64
        keys.append(calls[0].stdin)
        header = Path(header_of(world)).name
        assert world.modes() == {header: 0o600}
    assert keys[0] != keys[1]


@pytest.mark.spec("confidential-data-hub", 48)
async def test_headers_have_their_names_and_a_device_can_be_mounted_again(tmp_path: Path) -> None:
    assert header_name("/dev/loop0") == "L2Rldi9sb29wMA.header"
    assert header_name("/dev/vdb") == "L2Rldi92ZGI.header"
    world = StorageWorld(tmp_path)
    await world.mount(world.options())
    await world.mounts.unmount(world.place)
    assert world.left() == []
    await world.mount(world.options())
    assert world.calls()[-4].argv == ("cryptsetup", "close", "m1")
    # another process of ours does not know the mount, and kata unmounts without us
    world.kernel.unmount(world.place.encode())
    await world.mount(world.options())
    assert world.calls()[-4].argv == ("cryptsetup", "close", "m1")
    world.kernel.unmount(world.place.encode())
    (world.base / "mapper" / "m1").unlink()
    (world.base / "sys" / "dev" / "block" / "0:0" / "holders" / "m1").rmdir()
    world.mounts = world.open()
    await world.mount(world.options())


@pytest.mark.parametrize(
    ("changes", "integrity"),
    [
        ({}, False),
        ({}, True),
        (PERSISTENT, False),
        (PERSISTENT, True),
        ({"targetType": "device"}, 0),
    ],
)
@pytest.mark.spec("confidential-data-hub", 53)
async def test_whichever_program_fails_nothing_is_left(
    tmp_path: Path, changes: dict[str, str], integrity: bool
) -> None:
    options = {"dataIntegrity": "true" if integrity else "false", **changes}
    (tmp_path / "all").mkdir()
    world = StorageWorld(tmp_path / "all")
    await world.mount(world.options(**options))
    count = len(world.calls())
    assert count >= 2
    for number in range(count):
        (tmp_path / str(number)).mkdir()
        world = StorageWorld(tmp_path / str(number))
        world.set_failure(number)
        with pytest.raises(PlatformError, match="injected failure"):
            await world.mount(world.options(**options))
        assert world.left() == [], number
    (tmp_path / "mount").mkdir()
    world = StorageWorld(tmp_path / "mount")
    world.kernel.failure = OSError(16, "Device or resource busy")
    if "targetType" in options:
        Path(world.place).touch()
    with pytest.raises(PlatformError, match=r"busy|exists"):
        await world.mount(world.options(**options))
    assert world.left() == (["mount point"] if "targetType" in options else [])


@pytest.mark.parametrize("number", range(4))
@pytest.mark.spec("confidential-data-hub", 54)
async def test_a_caller_that_leaves_takes_the_programs_with_it(tmp_path: Path, number: int) -> None:
    world = StorageWorld(tmp_path)
    world.set_failure(number, "hang")
    note = world.base / "calls" / str(number) / "child"
    async with asyncio.TaskGroup() as group:
        work = group.create_task(world.mount(world.options(**PERSISTENT)))
        while not note.exists():
            await asyncio.sleep(0.01)
        work.cancel()
    assert work.cancelled()
    for name in ("child", "pid"):
        pid = int((note.parent / name).read_text())
        while status_of(pid) != "Z":  # killed already, and not gone yet
            await asyncio.sleep(0.01)
    assert world.left() == []


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


async def test_a_deadline_that_passes_ends_programs_and_undoes(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    world.set_failure(2, "hang")
    with pytest.raises(DeadlineError, match="no time left for program mkfs"):
        await world.mount(world.options(), seconds=3)
    assert world.left() == []


async def test_a_missing_program_is_named_and_undone(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    (world.base / "bin" / "cryptsetup").unlink()
    with pytest.raises(PlatformError, match="program cryptsetup is not installed"):
        await world.mount(world.options())
    assert world.left() == []


async def test_a_link_that_is_there_already_stays(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    Path(world.place).symlink_to(world.base / "mapper" / "m1")
    with pytest.raises(PlatformError, match="exists"):
        await world.mount(world.options(targetType="device"))
    assert os.path.islink(world.place)
    assert os.listdir(world.base / "mapper") == []


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("segments/0/encryption", "cipher_null-ecb", "segment's cipher"),
        ("segments/0/offset", "2097152", "segment's offset"),
        ("keyslots/0/area/encryption", "cipher_null-ecb", "key slot's cipher"),
        ("keyslots/0/key_size", 32, "key size"),
        ("tokens/0", {"type": "x", "keyslots": []}, "tokens"),
    ],
)
async def test_an_edited_header_is_refused_before_the_key_goes_near_it(
    tmp_path: Path, path: str, value: object, text: str
) -> None:
    world = StorageWorld(tmp_path)
    content = edited("attached", path, value).ljust(4 << 20, b"\0")
    world.device.write_bytes(content)
    with pytest.raises(IntegrityError, match=text):
        await world.mount(world.options(sourceType="encrypted", **PERSISTENT))
    assert (world.calls(), world.device.read_bytes() == content) == ([], True)
    assert world.left() == ["data on the device"]


async def test_a_header_that_was_replaced_after_the_format_is_refused_and_wiped(
    tmp_path: Path,
) -> None:
    world = StorageWorld(tmp_path)
    header = edited("attached", "segments/0/encryption", "cipher_null-ecb")
    (world.base / "headers" / "attached").write_bytes(header)
    with pytest.raises(IntegrityError):
        await world.mount(world.options(**PERSISTENT))
    assert [call.argv[0] for call in world.calls()] == ["blkid", "cryptsetup"]
    assert world.left() == []


async def test_a_volume_without_tags_is_refused_where_tags_were_asked_for(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    options = world.options(sourceType="encrypted", dataIntegrity="true", **PERSISTENT)
    world.device.write_bytes(vector("attached").ljust(4 << 20, b"\0"))
    with pytest.raises(IntegrityError, match="the volume has no integrity"):
        await world.mount(options)
    assert world.calls() == []


async def test_the_unmounting_of_a_persistent_volume_leaves_its_header(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    await world.mount(world.options(**PERSISTENT))
    await world.mounts.unmount(world.place)
    assert world.left() == ["data on the device"]
    await world.mount(world.options(sourceType="encrypted", **PERSISTENT))
    assert world.calls()[-1].stdin == KEY


async def test_a_header_can_be_asked_for_elsewhere(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    await world.mount(world.options(headerLocation="tmpfs", **PERSISTENT))
    assert "--header" in world.calls()[1].argv
    await world.mounts.unmount(world.place)
    await world.mount(world.options(headerLocation="device"))
    assert "--header" not in world.calls()[-3].argv


def test_a_key_that_was_typed_is_stretched() -> None:
    assert is_strong(Secret(bytes(range(32))))
    assert not is_strong(Secret(bytes(range(31))))
    assert not is_strong(Secret(b"correct horse battery staple, 42 times\n"))
