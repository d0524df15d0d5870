"""What the server bears: caps, slow peers, arbitrary bytes."""

import asyncio
import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.protos.cdh_pb2 import (
    GetResourceRequest,
)
from guest.rpc.server import ServerLimits
from support.transports import eventually
from support.ttrpc_wire import Frame, request, wire
from support.ttrpc_world import served


@pytest.mark.spec("ttrpc", 32)
async def test_a_peer_that_never_reads_is_dropped_and_holds_little(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ServerLimits(stall=0.4)
    async with served(short_tmp, limits=limits) as world, wire(world.path) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket transport
        many = b"".join(request(n, "size:100000").encode() for n in range(1, 20001, 2))
        peer.writer.write(many)
        await eventually(lambda: "connection dropped" in caplog.text, 30)
        # 256 calls at most were begun beyond what the socket's buffers took
        assert len(world.started) < 2 * limits.calls
        async with wire(world.path) as other:
            assert (await other.ask(request(1))).status == (0, "")
        peer.writer.transport.abort()


async def test_a_peer_that_reads_slowly_is_not_dropped(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ServerLimits(stall=0.8)
    async with served(short_tmp, limits=limits) as world, wire(world.path) as peer:
        await peer.send(request(1, "size:4000000"))
        head = await peer.reader.readexactly(10)
        left = int.from_bytes(head[:4], "big")
        while left:
            left -= len(await peer.reader.readexactly(min(left, 400_000)))
            await asyncio.sleep(0.12)
        assert (await peer.ask(request(3))).status == (0, "")
    assert "connection dropped" not in caplog.text


async def test_beyond_the_cap_of_calls_nothing_is_read_until_one_ends(short_tmp: Path) -> None:
    limits = ServerLimits(calls=4)
    async with served(short_tmp, limits=limits) as world, wire(world.path) as peer:
        await peer.send(*(request(n, "wait") for n in range(1, 21, 2)))
        await eventually(lambda: len(world.started) == 4)
        await asyncio.sleep(0.05)
        assert len(world.started) == 4
        world.release.set()
        seen = {(await peer.receive()).stream_id for _ in range(10)}
        assert seen == set(range(1, 21, 2))


async def test_beyond_the_cap_of_connections_the_next_one_waits(short_tmp: Path) -> None:
    limits = ServerLimits(connections=2)
    async with served(short_tmp, limits=limits) as world:
        async with wire(world.path) as first, wire(world.path) as second:
            await first.ask(request(1))
            await second.ask(request(1))
            async with wire(world.path) as third:
                await third.send(request(1))
                await asyncio.sleep(0.05)
                assert len(world.started) == 2
                first.close()
                assert (await third.receive()).status == (0, "")


async def test_request_bytes_are_bounded_over_all_connections(short_tmp: Path) -> None:
    limits = ServerLimits(payload=250_000)
    async with served(short_tmp, limits=limits) as world:
        async with wire(world.path) as first, wire(world.path) as second:
            waiting = request(
                1,
                payload=GetResourceRequest(ResourcePath="wait").SerializeToString()
                + b"\x7a\xf0\xa2\x04"
                + bytes(70000),
            )
            await first.send(waiting, Frame(3, 1, 0, waiting.data), Frame(5, 1, 0, waiting.data))
            await second.send(Frame(1, 1, 0, waiting.data))
            await eventually(lambda: len(world.started) == 3)
            await asyncio.sleep(0.05)
            assert len(world.started) == 3
            world.release.set()
            assert {(await first.receive()).stream_id for _ in range(3)} == {1, 3, 5}
            assert (await second.receive()).status == (0, "")


async def test_a_frame_that_is_begun_and_not_completed_gives_its_bytes_back(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ServerLimits(payload=100_000, frame=0.1)
    async with served(short_tmp, limits=limits) as world:
        async with wire(world.path) as slow, wire(world.path) as other:
            await slow.send(request(1, "x" * 90_000).encode()[:50])
            assert (await other.ask(request(1, "y" * 50_000))).status == (0, "")
            assert await slow.at_end()
    assert "frame not completed in time" in str([vars(r) for r in caplog.records])


async def test_a_busy_connection_does_not_starve_another(short_tmp: Path) -> None:
    async with served(short_tmp) as world:
        async with wire(world.path) as busy, wire(world.path) as calm:
            junk = Frame(2, 1, 0, b"").encode() * 20_000
            busy.writer.write(junk)
            answer = await calm.ask(request(1))
            assert answer.status == (0, "")
            busy.writer.transport.abort()


@settings(max_examples=25)
@given(st.binary(max_size=300))
@pytest.mark.parametrize("kind", ["raw", "framed", "payload"])
async def test_any_bytes_get_an_answer_or_a_closed_connection(kind: str, data: bytes) -> None:
    await _survives(kind, data)


async def _survives(kind: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="cg") as name:
        problems: list[logging.LogRecord] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = problems.append  # type: ignore[assignment]  # shortest collector
        logging.getLogger().addHandler(handler)
        try:
            async with served(Path(name)) as world, wire(world.path) as peer:
                sent: bytes | Frame = data
                if kind == "framed":
                    sent = Frame(1, 1, 0, data)
                elif kind == "payload":
                    sent = request(1, payload=data)
                await peer.send(sent)
                if kind == "raw":
                    peer.writer.write_eof()
                    async with asyncio.timeout(20):
                        await peer.reader.read()
                else:
                    assert (await peer.receive()).stream_id == 1
                async with wire(world.path) as other:
                    assert (await other.ask(request(1))).status == (0, "")
        finally:
            logging.getLogger().removeHandler(handler)
        assert problems == []
