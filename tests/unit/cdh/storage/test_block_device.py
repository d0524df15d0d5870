"""Block devices: which may be initialised, which are in use, one mount at a time."""

import asyncio
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError, PlatformError
from support.storage_world import StorageWorld

PERSISTENT = {"key": "kbs:///default/key/1"}


@pytest.mark.parametrize("place", [0, (1 << 20) - 1, (24 << 20) - (1 << 20), (24 << 20) - 1])
async def test_a_used_device_is_not_initialised_with_a_key_unless_forced(
    tmp_path: Path, place: int
) -> None:
    world = StorageWorld(tmp_path)
    with world.device.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    with pytest.raises(InvalidInputError, match="first or last MiB is not zero"):
        await world.mount(world.options(**PERSISTENT))
    with pytest.raises(InvalidInputError, match="first or last MiB is not zero"):
        await world.mount(world.options(force="TRUE", **PERSISTENT))
    assert [call.argv[0] for call in world.calls()] == ["blkid", "blkid"]
    with world.device.open("rb") as file:
        file.seek(place)
        assert file.read(1) == b"x"
    await world.mount(world.options(force="true", **PERSISTENT))
    assert "blkid" not in [call.argv[0] for call in world.calls()[2:]]


@pytest.mark.parametrize("status", [0, 4, 8, 1])
async def test_what_blkid_finds_or_cannot_tell_is_not_initialised(
    tmp_path: Path, status: int
) -> None:
    world = StorageWorld(tmp_path)
    (world.base / "behaviour" / "blkid").write_text(f"exit {status}\n")
    with pytest.raises(GuestError):
        await world.mount(world.options(**PERSISTENT))
    assert [call.argv[0] for call in world.calls()] == ["blkid"]


async def test_a_device_that_blkid_complains_about_is_not_initialised(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    (world.base / "behaviour" / "blkid").write_text("echo cannot open >&2; exit 2\n")
    with pytest.raises(PlatformError, match="cannot open"):
        await world.mount(world.options(**PERSISTENT))
    assert [call.argv[0] for call in world.calls()] == ["blkid"]


async def test_a_used_device_is_initialised_without_a_key_as_specified(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    with world.device.open("r+b") as file:
        file.write(b"x")
    await world.mount(world.options())
    assert "blkid" not in [call.argv[0] for call in world.calls()]


async def test_a_refused_format_of_a_used_device_wipes_nothing(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    with world.device.open("r+b") as file:
        file.write(b"x")
    world.set_failure(0)
    with pytest.raises(PlatformError):
        await world.mount(world.options(force="true", **PERSISTENT))
    assert world.device.read_bytes()[:1] == b"x"


async def test_a_device_with_a_live_mapping_is_left_alone(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    holders = world.base / "sys" / "dev" / "block" / "0:0" / "holders"
    (holders / "dm-3").mkdir(parents=True)
    with pytest.raises(PlatformError, match=r"in use by dm-3"):
        await world.mount(world.options())
    (holders / "dm-3").rmdir()
    (world.base / "mapper" / "m1").touch()
    with pytest.raises(PlatformError, match="there is a mapping m1 already"):
        await world.mount(world.options())
    assert (world.calls(), (world.base / "mapper" / "m1").exists()) == ([], True)


async def test_two_mounts_of_one_device_do_not_meet(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    other = world.base / "other-name"
    other.symlink_to(world.device)
    (world.base / "mnt2").mkdir()

    async def mount(path: Path, place: str, name: str) -> str:
        options = world.options(devicePath=str(path), mapperName=name)
        try:
            await world.mounts.mount("block-device", options, place, Deadline.after(40))
        except GuestError as error:
            return str(error)
        return "mounted"

    async with asyncio.TaskGroup() as group:
        one = group.create_task(mount(world.device, world.place, "m1"))
        two = group.create_task(mount(other, str(world.base / "mnt2"), "m2"))
    results = {one.result(), two.result()}
    assert "mounted" in results
    assert len(results) == 2
    assert any("in use by m" in result for result in results)
    formats = [i for i, call in enumerate(world.calls()) if "luksFormat" in call.argv]
    assert (formats, len(world.kernel.mounted)) == ([0], 1)
