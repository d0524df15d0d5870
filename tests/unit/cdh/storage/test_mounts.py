"""Secure mounts as a whole: refusals, turns, unmounting, the end of the process."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from cdh.storage.base import Volume
from cdh.storage.mounts import MAX_TURNS, SecureMounts, Turns
from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.errors import DeadlineError, InvalidInputError, LimitError, NotFoundError
from support.storage_world import NotedMounts, StorageWorld


def soon() -> Deadline:
    return Deadline.after(20)


class OneVolume:
    """Makes itself the volume of every request."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = 0
        self.wiped = 0
        self.undone = 0

    def __call__(self, options: Mapping[str, str], mount_point: str) -> Volume:
        return self

    async def prepare(self, deadline: Deadline) -> tuple[str, ...]:
        return ("device x",)

    async def mount(self, undo: UndoStack, deadline: Deadline) -> None:
        async def back(deadline: Deadline) -> None:
            self.undone += 1

        undo.push("x", back)
        self.entered += 1
        await self.gate.wait()

    def wipe(self) -> None:
        self.wiped += 1


@pytest.mark.parametrize("kind", ["", "Block-Device", "block-device ", "nfs"])
async def test_a_type_that_is_not_known_exactly_is_refused(tmp_path: Path, kind: str) -> None:
    world = StorageWorld(tmp_path)
    with pytest.raises(InvalidInputError, match="no volumes of type"):
        await world.mounts.mount(kind, world.options(), world.place, soon())


async def test_wrong_options_and_mount_points_are_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    world = StorageWorld(tmp_path)
    for options, place in (
        (world.options(sourceType=None), world.place),
        (world.options(), "/"),
        (world.options(), "mnt"),
        (world.options(devicePath=str(tmp_path / "none")), world.place),
        (world.options(devicePath=str(tmp_path)), world.place),
        (world.options(deviceId="4095:1"), world.place),
        (world.options(sourceType="encrypted"), world.place),
        (world.options(key="ftp://x"), world.place),
    ):
        with pytest.raises(InvalidInputError):
            await world.mounts.mount("block-device", options, place, soon())
    assert (world.calls(), world.left()) == ([], [])


async def test_the_old_name_of_block_devices_is_understood(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    node = tmp_path / "sys" / "dev" / "block" / "8:16"
    node.mkdir(parents=True)
    (node / "uevent").write_text("MAJOR=8\nMINOR=16\nDEVNAME=disk\nDEVTYPE=disk\n")
    options = {"deviceId": "8:16", "encryptType": "LUKS", "dataIntegrity": "false"}
    await world.mounts.mount("BlockDevice", options, world.place, soon())
    assert world.calls()[0].argv[-2:] == (str(world.device), "-")
    assert "luksFormat" in world.calls()[0].argv


async def test_the_keys_are_wiped_however_it_ends(tmp_path: Path) -> None:
    volume = OneVolume()
    mounts = SecureMounts({"x": volume}, NotedMounts(tmp_path))
    async with asyncio.TaskGroup() as group:
        one = group.create_task(mounts.mount("x", {}, "/a", soon()))
        two = group.create_task(mounts.mount("x", {}, "/b", soon()))
        while not volume.entered:
            await asyncio.sleep(0.001)
        assert volume.entered == 1
        one.cancel()
        await asyncio.wait([one])
        volume.gate.set()
    assert (one.cancelled(), two.result()) == (True, None)
    assert (volume.entered, volume.wiped, volume.undone) == (2, 2, 1)


async def test_waiting_for_another_mount_ends_with_the_deadline(tmp_path: Path) -> None:
    volume = OneVolume()
    mounts = SecureMounts({"x": volume}, NotedMounts(tmp_path))
    async with asyncio.TaskGroup() as group:
        group.create_task(mounts.mount("x", {}, "/a", soon()))
        while not volume.entered:
            await asyncio.sleep(0.001)
        with pytest.raises(DeadlineError, match="the work before this one on device x"):
            await mounts.mount("x", {}, "/b", Deadline.after(0.05))
        volume.gate.set()


async def test_turns_are_bounded_and_forgotten() -> None:
    turns = Turns()
    gate = asyncio.Event()

    async def hold(name: str) -> None:
        async with turns.taken(name, soon()):
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(MAX_TURNS):
            group.create_task(hold(f"n{number}"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(LimitError):
            await hold("one more")
        gate.set()
    await asyncio.wait_for(hold("again"), 5)


async def test_what_was_mounted_here_is_unmounted_at_the_end_where_asked(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    for asked in (False, True):
        mounts = world.open(unmount_at_exit=asked)
        await mounts.mount("block-device", world.options(), world.place, soon())
        await mounts.close()
        assert (world.left() == []) is asked
        if not asked:
            await mounts.unmount(world.place)
    with pytest.raises(NotFoundError):
        await world.mounts.unmount(world.place)


async def test_what_cannot_be_unmounted_is_said_and_does_not_stop_the_end(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    mounts = world.open(unmount_at_exit=True)
    await mounts.mount("block-device", world.options(), world.place, soon())
    world.set_failure(len(world.calls()))
    with pytest.raises(InvalidInputError, match="not unmounted: mapping m1"):
        await mounts.unmount(world.place)
    world.set_failure(len(world.calls()))
    await mounts.close()
    assert "mapper/m1" in world.left()
