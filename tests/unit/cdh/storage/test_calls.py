"""`SecureMount` as a caller sees it: texts, what is passed on, what a caller that leaves undoes."""

import asyncio
from pathlib import Path

import pytest

from cdh.agent import AgentClient
from cdh.hub import DataHub
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.rpc import DataHubEdge
from guest.deadline import Deadline
from guest.errors import DeadlineError, GuestError
from guest.protos import cdh_pb2
from guest.protos.methods import SECURE_MOUNT
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import Channel, Routes
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from support.hub_world import Agent, FakePuller
from support.kbs_hub import hub_world
from support.sealed_world import make_unsealer
from support.storage_world import KEY, StorageWorld


def routes_of(world: StorageWorld) -> Routes:
    resources = world.resources
    hub = DataHub(
        resources=resources,
        keys=LayerKeys(resources, open_decrypter),
        unsealer=make_unsealer(resources),
        open_puller=lambda: asyncio.sleep(0, FakePuller()),
        measurer=AgentClient(Agent().channel),
        mounts=world.mounts,
    )
    return DataHubEdge(hub).routes()


def request_of(world: StorageWorld, **changes: str | None) -> cdh_pb2.SecureMountRequest:
    return cdh_pb2.SecureMountRequest(
        volume_type="block-device",
        options=world.options(**changes),
        flags=["ignored"],
        mount_point=world.place,
    )


async def mount(
    channel: Channel, request: cdh_pb2.SecureMountRequest, seconds: float = 40
) -> cdh_pb2.SecureMountResponse:
    return await channel.call(SECURE_MOUNT, request, deadline=Deadline.after(seconds))


async def test_a_volume_is_mounted_over_the_call(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    channel = InProcessChannel(routes_of(world))
    response = await mount(channel, request_of(world, key="kbs:///default/key/1"))
    assert response.mount_path == world.place
    assert len(world.kernel.mounted) == 1
    await channel.close()


async def test_every_failure_has_the_one_specified_text_and_tells_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    world = StorageWorld(tmp_path)
    channel = InProcessChannel(routes_of(world))
    world.set_failure(1)
    for changes in (
        {"sourceType": "x"},
        {"key": "kbs:///default/key/none"},
        {"key": "kbs:///default/key/1"},
        {"devicePath": "/nonexistent"},
    ):
        with pytest.raises(GuestError) as caught:
            await mount(channel, request_of(world, **changes))
        assert str(caught.value).startswith("[CDH] [ERROR]: Secure Mount failed")
        assert KEY.hex() not in str(caught.value)
        assert repr(KEY)[2:-1] not in str(caught.value.causes())
    await asyncio.sleep(0)
    seen = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "injected failure" in seen
    assert repr(KEY)[2:-1] not in seen
    assert world.left() == []
    await channel.close()


@pytest.mark.spec("confidential-data-hub", 54)
async def test_a_caller_that_hangs_up_has_everything_undone(short_tmp: Path) -> None:
    world = StorageWorld(short_tmp)
    world.set_failure(2, "hang")
    server = TtrpcServer(routes_of(world), f"unix://{short_tmp}/s")
    await server.bind()
    await server.publish()
    channel = TtrpcChannel(f"unix://{short_tmp}/s")
    note = short_tmp / "calls" / "2" / "child"
    async with asyncio.TaskGroup() as group:
        work = group.create_task(mount(channel, request_of(world)))
        while not note.exists():
            await asyncio.sleep(0.01)
        assert world.left() != []
        work.cancel()
        await asyncio.wait([work])
        await channel.close()
    while world.left():
        await asyncio.sleep(0.01)
    await server.drain()
    assert [call.argv[:2] for call in world.calls()][-1] == ("cryptsetup", "close")


async def test_the_callers_deadline_ends_and_undoes_it(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    world.set_failure(0, "hang")
    channel = InProcessChannel(routes_of(world))
    with pytest.raises(DeadlineError):
        await mount(channel, request_of(world), seconds=2.5)
    while world.left():
        await asyncio.sleep(0.01)
    await channel.close()


async def test_a_mount_that_takes_long_holds_up_no_other(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    world.set_failure(0, "hang")
    channel = InProcessChannel(routes_of(world))
    other = tmp_path / "disk2"
    other.write_bytes(bytes(4 << 20))
    async with asyncio.TaskGroup() as group:
        stuck = group.create_task(mount(channel, request_of(world)))
        while not (world.base / "calls" / "0" / "child").exists():
            await asyncio.sleep(0.01)
        second = request_of(world, devicePath=str(other), mapperName="m2")
        second.mount_point = str(tmp_path / "mnt2")
        await mount(channel, second)
        stuck.cancel()
    assert world.kernel.mounted == [
        (str(tmp_path / "mapper" / "m2"), str(tmp_path / "mnt2"), "ext4")
    ]
    await channel.close()


async def test_the_daemon_has_secure_mounts(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as hub:
        request = cdh_pb2.SecureMountRequest(
            volume_type="block-device",
            options={
                "devicePath": "/dev/null",
                "sourceType": "empty",
                "targetType": "device",
                "encryptionType": "luks2",
            },
            mount_point=f"{short_tmp}/mnt",
        )
        with pytest.raises(GuestError, match=r"\[CDH\] \[ERROR\]: Secure Mount failed") as caught:
            await mount(hub.channel, request)
        assert any("/dev/null is no block device" in line for line in caught.value.causes())
