"""The client, met by scripted servers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    InvalidInputError,
    LimitError,
    PeerError,
    UnavailableError,
    UnreachableError,
)
from guest.protos import methods
from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.rpc.server import serving
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from support.transports import eventually, refused
from support.ttrpc_wire import Frame, Wire, scripted_server, success
from support.ttrpc_world import World

FILE: Final = Path(__file__).parents[3] / "vectors" / "ttrpc" / "frames.json"
HEX: Final = {one["name"]: one["hex"] for one in json.loads(FILE.read_text())["frames"]}
REQUEST: Final = GetResourceRequest(ResourcePath="kbs:///default/key/1")
PAYLOAD: Final = GetResourceResponse(Resource=b"value-of-key-1").SerializeToString()


def vector(name: str) -> bytes:
    return bytes.fromhex(HEX[name])


@asynccontextmanager
async def channel_to(
    directory: Path, script: Callable[[Wire], Awaitable[None]]
) -> AsyncIterator[TtrpcChannel]:
    address = f"unix://{directory}/s.sock"
    async with scripted_server(address, script):
        channel = TtrpcChannel(address)
        try:
            yield channel
        finally:
            await channel.close()


async def get(channel: TtrpcChannel, *, seconds: float = 20.0) -> GetResourceResponse:
    return await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(seconds))


def answering(*answers: bytes | Frame) -> Callable[[Wire], Awaitable[None]]:
    """Answers the n-th request of a connection with the n-th piece."""

    async def script(peer: Wire) -> None:
        for answer in answers:
            await peer.receive()
            await peer.send(answer)
        await peer.at_end(60)

    return script


async def test_the_first_bytes_of_a_channel_are_the_published_request(short_tmp: Path) -> None:
    seen: list[Frame] = []

    async def script(peer: Wire) -> None:
        while True:
            frame = await peer.receive(60)
            seen.append(frame)
            await peer.send(success(frame.stream_id))

    async with channel_to(short_tmp, script) as channel:
        for _ in range(2):
            await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.unlimited())
    assert seen[1].encode() == vector("request GetResource id 3, no timeout")


@pytest.mark.spec("ttrpc", 2)
@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("response Resource, Rust form", b"value-of-key-1"),
        ("response Resource, Go form", b"value-of-key-1"),
        ("empty success, Rust form", b""),
        ("empty success, Go form", b""),
    ],
)
async def test_all_forms_of_success_are_taken(name: str, resource: bytes, short_tmp: Path) -> None:
    async with channel_to(short_tmp, answering(vector(name))) as channel:
        assert (await get(channel)).Resource == resource


@pytest.mark.spec("ttrpc", 28)
async def test_replies_that_nobody_waits_for_are_ignored(short_tmp: Path) -> None:
    noise = success(99, PAYLOAD).encode() + success(2).encode()
    good = success(1, PAYLOAD).encode()
    script = answering(noise + good + good, success(3, PAYLOAD))
    async with channel_to(short_tmp, script) as channel:
        assert (await get(channel)).Resource == b"value-of-key-1"
        assert (await get(channel)).Resource == b"value-of-key-1"


@pytest.mark.spec("ttrpc", 29)
@pytest.mark.parametrize("frame", [Frame(1, 3, 0, b""), Frame(1, 9, 0, b"x"), Frame(1, 3, 5, b"")])
async def test_a_frame_that_is_no_response_fails_its_call_alone(
    frame: Frame, short_tmp: Path
) -> None:
    async def script(peer: Wire) -> None:
        await peer.receive()
        await peer.receive()
        await peer.send(frame, success(3, PAYLOAD))
        await peer.at_end(60)

    async with channel_to(short_tmp, script) as channel:
        async with asyncio.TaskGroup() as group:
            failing = group.create_task(refused(get(channel), PeerError))
            await asyncio.sleep(0)
            other = group.create_task(get(channel))
        assert failing.result().startswith("protocol error")
        assert other.result().Resource == b"value-of-key-1"


async def test_what_cannot_be_decoded_fails_its_call_alone(short_tmp: Path) -> None:
    script = answering(Frame(1, 2, 0, b"\x0a\xff"), success(3, b"\x0a\xff"), success(5, PAYLOAD))
    async with channel_to(short_tmp, script) as channel:
        assert "cannot be parsed" in await refused(get(channel), PeerError)
        assert "cannot be parsed" in await refused(get(channel), PeerError)
        assert (await get(channel)).Resource == b"value-of-key-1"


async def test_an_oversize_reply_fails_its_call_alone(short_tmp: Path) -> None:
    script = answering(Frame(1, 2, 0, bytes(4194305)), success(3, PAYLOAD))
    async with channel_to(short_tmp, script) as channel:
        text = "message length 4194305 exceed maximum message size of 4194304"
        assert await refused(get(channel), LimitError) == text
        assert (await get(channel)).Resource == b"value-of-key-1"


async def test_a_server_that_sends_no_frames_is_left(short_tmp: Path) -> None:
    connections: list[Wire] = []

    async def script(peer: Wire) -> None:
        connections.append(peer)
        await peer.receive()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.at_end(60)

    async with channel_to(short_tmp, script) as channel:
        assert "no frame" in await refused(get(channel), PeerError)
        assert "no frame" in await refused(get(channel), PeerError)
    assert len(connections) == 2


@pytest.mark.spec("ttrpc", 30)
async def test_ids_on_the_wire_increase_with_many_callers(short_tmp: Path) -> None:
    ids: list[int] = []

    async def script(peer: Wire) -> None:
        while True:
            frame = await peer.receive(60)
            ids.append(frame.stream_id)
            await peer.send(success(frame.stream_id, PAYLOAD))

    async with channel_to(short_tmp, script) as channel:
        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(get(channel))
        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(get(channel))
    assert ids == list(range(1, 257, 2))


@pytest.mark.spec("ttrpc", 31)
async def test_a_cancelled_call_frees_its_slot_and_its_late_reply_is_ignored(
    short_tmp: Path,
) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def script(peer: Wire) -> None:
        await peer.receive()
        asked.set()
        await release.wait()
        await peer.send(success(1, b"\x0a\x04late"))
        await peer.receive()
        await peer.send(success(3, PAYLOAD))
        await peer.at_end(60)

    async with channel_to(short_tmp, script) as channel:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(get(channel))
            await asked.wait()
            task.cancel()
        assert channel._link is not None
        assert channel._link.pending == channel._link._connection.active == 0
        release.set()
        assert (await get(channel)).Resource == b"value-of-key-1"


async def test_without_an_answer_the_local_timer_ends_the_call_a_second_late(
    short_tmp: Path,
) -> None:
    async def script(peer: Wire) -> None:
        frame = await peer.receive()
        assert b"\x20" in frame.data
        await peer.at_end(60)

    async with channel_to(short_tmp, script) as channel:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await refused(get(channel, seconds=0.1), DeadlineError)
        assert 1.05 <= loop.time() - started < 10
        assert channel._link is not None
        assert channel._link.pending == 0


async def test_the_servers_own_timeout_wins(short_tmp: Path) -> None:
    async def script(peer: Wire) -> None:
        await peer.receive()
        await asyncio.sleep(0.3)
        await peer.send(vector("timeout"))
        await peer.at_end(60)

    async with channel_to(short_tmp, script) as channel:
        assert await refused(get(channel, seconds=0.1), DeadlineError) == "timeout"


@pytest.mark.spec("ttrpc", 27)
async def test_a_restarted_server_is_found_again_by_the_next_call(short_tmp: Path) -> None:
    world = World(short_tmp)
    address = f"unix://{world.path}"
    channel = TtrpcChannel(address)
    for _ in range(3):
        async with serving(TtrpcServer(world.routes, address)):
            assert (await get(channel)).Resource == b"value-of-key-1"
            extend = methods.EXTEND_RUNTIME_MEASUREMENT
            world.release.set()
            await channel.call(extend, extend.request(), deadline=Deadline.after(10))
        await eventually(lambda: channel._link is None or not channel._link.is_usable)
    assert "No such file or directory" in await refused(get(channel), UnreachableError)
    await channel.close()


async def test_a_call_that_may_be_repeated_is_sent_again_when_the_connection_breaks(
    short_tmp: Path,
) -> None:
    requests: list[Frame] = []

    async def script(peer: Wire) -> None:
        requests.append(await peer.receive())
        if len(requests) == 1:
            return
        await peer.send(success(1, PAYLOAD))
        await peer.at_end(60)

    async with channel_to(short_tmp, script) as channel:
        assert (await get(channel)).Resource == b"value-of-key-1"
    assert [frame.stream_id for frame in requests] == [1, 1]


async def test_a_call_is_repeated_once_and_others_not_at_all(short_tmp: Path) -> None:
    requests: list[Frame] = []

    async def script(peer: Wire) -> None:
        requests.append(await peer.receive())

    async with channel_to(short_tmp, script) as channel:
        await refused(get(channel), UnavailableError)
        assert len(requests) == 2
        extend = methods.EXTEND_RUNTIME_MEASUREMENT
        call = channel.call(extend, extend.request(), deadline=Deadline.after(10))
        await refused(call, UnavailableError)
        assert len(requests) == 3


async def test_nobody_there_is_unreachable(short_tmp: Path) -> None:
    channel = TtrpcChannel(f"unix://{short_tmp}/none.sock")
    assert "No such file" in await refused(get(channel), UnreachableError)
    channel = TtrpcChannel("tcp://127.0.0.1:1")
    assert "refused" in (await refused(get(channel), UnreachableError)).lower()


async def test_callers_share_one_connection_and_one_failure(short_tmp: Path) -> None:
    connections: list[Wire] = []

    async def script(peer: Wire) -> None:
        connections.append(peer)
        while True:
            frame = await peer.receive(60)
            await peer.send(success(frame.stream_id, PAYLOAD))

    async with channel_to(short_tmp, script) as channel:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(get(channel))
            others = [group.create_task(get(channel)) for _ in range(20)]
            await asyncio.sleep(0)
            first.cancel()
        assert all(task.result().Resource == b"value-of-key-1" for task in others)
    assert len(connections) <= 2


async def test_a_full_backlog_is_waited_for(short_tmp: Path) -> None:
    import socket

    path = f"{short_tmp}/full.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    filler = socket.socket(socket.AF_UNIX)
    filler.connect(path)
    channel = TtrpcChannel(f"unix://{path}", connect_timeout=0.1)
    assert "timed out" in await refused(get(channel), UnreachableError)
    channel = TtrpcChannel(f"unix://{path}")
    assert "connection" in await refused(get(channel, seconds=0.1), DeadlineError)
    filler.close()
    listener.close()


async def test_new_ids_come_from_a_new_connection_before_they_run_out(short_tmp: Path) -> None:
    ids: list[int] = []

    async def script(peer: Wire) -> None:
        while True:
            frame = await peer.receive(60)
            ids.append(frame.stream_id)
            await peer.send(success(frame.stream_id, PAYLOAD))

    async with channel_to(short_tmp, script) as channel:
        await get(channel)
        assert channel._link is not None
        channel._link._connection._next_id = 0xFFFFFFFF
        await get(channel)
        await get(channel)
    assert ids == [1, 0xFFFFFFFF, 1]


async def test_a_caller_waits_while_the_server_does_not_read(short_tmp: Path) -> None:
    release = asyncio.Event()

    async def script(peer: Wire) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket transport
        await release.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        while True:
            frame = await peer.receive(60)
            await peer.send(success(frame.stream_id, PAYLOAD))

    async with channel_to(short_tmp, script) as channel:
        big = GetResourceRequest(ResourcePath="x" * 1_000_000)

        async def send_big() -> None:
            await channel.call(methods.GET_RESOURCE, big, deadline=Deadline.after(30))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(send_big())
            await eventually(lambda: channel._link is not None and not channel._link.is_writable)
            assert channel._link is not None
            assert channel._link.pending < 8
            release.set()


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidInputError, match=r'^Scheme of "/run/x\.sock" is not supported$'):
        TtrpcChannel("/run/x.sock")
