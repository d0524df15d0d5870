"""How calls, connections and the server itself end."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Final

import pytest

from guest.protos.cdh_pb2 import (
    ImagePullRequest,
    ImagePullResponse,
)
from guest.rpc.method import CallContext
from guest.rpc.server import ServerLimits
from guest.ttrpc.server import TtrpcServer
from support.transports import eventually
from support.ttrpc_wire import request, wire
from support.ttrpc_world import World, call, served

FILE: Final = Path(__file__).parents[3] / "vectors" / "ttrpc" / "frames.json"
HEX: Final = {one["name"]: one["hex"] for one in json.loads(FILE.read_text())["frames"]}
LIMIT_TEXT: Final = "message length 4194305 exceed maximum message size of 4194304"


def vector(name: str) -> bytes:
    return bytes.fromhex(HEX[name])


@pytest.mark.spec("ttrpc", 23)
async def test_a_half_close_cancels_and_closes_without_a_reply(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        await peer.send(request(1, "wait"))
        await eventually(lambda: world.started == ["wait"])
        peer.writer.write_eof()
        assert await peer.at_end()
        await eventually(lambda: world.cancelled == ["wait"])


@pytest.mark.spec("ttrpc", 24)
async def test_a_partial_frame_and_an_end_leave_no_error_in_the_log(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = request(1).encode()
    async with served(short_tmp) as world:
        for cut in (1, 9, 10, 11, len(frame) - 1):
            async with wire(world.path) as peer:
                await peer.send(frame[:cut])
                peer.writer.write_eof()
                assert await peer.at_end()
        async with wire(world.path) as peer:
            assert (await peer.ask(request(1))).status == (0, "")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("by", ["disconnect", "timeout"])
async def test_some_methods_finish_and_some_roll_back_whatever_the_caller_does(
    by: str, short_tmp: Path
) -> None:
    names = ("extend", "pull", "mount")
    async with served(short_tmp) as world, wire(world.path) as peer:
        timeout = 50_000_000 if by == "timeout" else 0
        frames = [call(name, 2 * at + 1, timeout=timeout) for at, name in enumerate(names)]
        await peer.send(*frames)
        await eventually(lambda: sorted(world.started) == sorted(names))
        if by == "timeout":
            statuses = [(await peer.receive()).status for _ in names]
            assert statuses == [(4, "timeout")] * 3
        else:
            peer.close()
        await asyncio.sleep(0.05)
        assert world.finished == world.cancelled == []
        world.release.set()
        await eventually(lambda: world.finished == ["extend"])
        await eventually(lambda: sorted(world.cancelled) == ["mount", "pull"])


async def test_a_roll_back_that_takes_too_long_is_stopped(short_tmp: Path) -> None:
    stopped = asyncio.Event()

    class Stubborn(World):
        async def pull(self, asked: ImagePullRequest, context: CallContext) -> ImagePullResponse:
            try:
                await asyncio.sleep(60)
            finally:
                try:
                    await asyncio.sleep(60)
                finally:
                    stopped.set()
            return ImagePullResponse()

    world = Stubborn(short_tmp)
    limits = ServerLimits(roll_back=0.05)
    server = TtrpcServer(world.routes, f"unix://{world.path}", limits=limits)
    await server.bind()
    await server.publish()
    async with wire(world.path) as peer:
        await peer.ask(call("pull", 1, timeout=1_000_000))
        async with asyncio.timeout(20):
            await stopped.wait()
    await server.drain(0.1)


@pytest.mark.spec("ttrpc", 26)
async def test_a_stop_answers_what_runs_refuses_what_comes_and_removes_the_socket(
    short_tmp: Path,
) -> None:
    world = World(short_tmp)
    server = TtrpcServer(world.routes, f"unix://{world.path}")
    await server.bind()
    await server.publish()
    async with wire(world.path) as peer:
        await peer.send(request(1, "wait"))
        await eventually(lambda: world.started == ["wait"])
        async with asyncio.TaskGroup() as group:
            group.create_task(server.drain())
            await eventually(lambda: not Path(world.path).exists())
            with pytest.raises(OSError):
                await asyncio.open_unix_connection(world.path)
            await peer.send(request(3))  # not read any more
            await asyncio.sleep(2)
            world.release.set()
            assert (await peer.receive()).encode() == vector("response Resource, Rust form")
            assert await peer.at_end()
    assert list(short_tmp.iterdir()) == []
    assert world.started == ["wait"]


async def test_a_stop_leaves_a_client_time_between_the_last_answer_and_the_end(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest.ttrpc.server.LAST_ANSWER_SECONDS", 2.0)
    world = World(short_tmp)
    server = TtrpcServer(world.routes, f"unix://{world.path}")
    await server.bind()
    await server.publish()
    async with wire(world.path) as peer, asyncio.TaskGroup() as group:
        await peer.send(request(1, "wait"))
        await eventually(lambda: world.started == ["wait"])
        group.create_task(server.drain())
        world.release.set()
        await peer.receive()
        end = group.create_task(peer.at_end())
        assert not (await asyncio.wait([end], timeout=0.1))[0]
        assert await end


async def test_a_stop_cancels_what_does_not_end_in_the_grace(short_tmp: Path) -> None:
    async with served(short_tmp, grace=0.05) as world, wire(world.path) as peer:
        await peer.send(request(1, "wait"))
        await eventually(lambda: world.started == ["wait"])
    assert world.cancelled == ["wait"]


async def test_a_tcp_server_learns_its_port_and_serves(short_tmp: Path) -> None:
    world = World(short_tmp)
    server = TtrpcServer(world.routes, "tcp://127.0.0.1:0")
    await server.bind()
    await server.publish()
    host, port = server.address.removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request(1).encode())
    head = await reader.readexactly(10)
    assert head[8] == 2
    assert world.contexts[0].peer.startswith("('127.0.0.1', ")
    writer.close()
    await server.drain(0.1)


async def test_an_abstract_socket_serves(short_tmp: Path) -> None:
    world = World(short_tmp)
    name = f"cg-{os.getpid()}-{id(world)}"
    server = TtrpcServer(world.routes, f"unix://@{name}")
    await server.bind()
    await server.publish()
    async with wire(f"\0{name}") as peer:
        assert (await peer.ask(request(1))).status == (0, "")
    await server.drain(0.1)


async def test_draining_a_server_that_never_served_does_nothing(short_tmp: Path) -> None:
    world = World(short_tmp)
    server = TtrpcServer(world.routes, f"unix://{world.path}")
    await server.drain()
    server = TtrpcServer(world.routes, f"unix://{world.path}")
    await server.bind()
    await server.drain()
    await server.drain()
    assert list(short_tmp.iterdir()) == []
