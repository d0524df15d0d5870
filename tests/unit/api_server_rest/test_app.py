"""HTTP itself: limits, connections, what is malformed."""

import asyncio
import socket
from pathlib import Path

import pytest

from api_server_rest import app
from api_server_rest.exchange import Answer, Request
from support.rest_world import Reply, read_reply, rest_world

EVENT = b'{"domain":"d","operation":"o","content":"c","RegisterIndex":7,"more":[1]}'


def shows(reply: Reply, status: int, body: bytes, content_type: str | None = None) -> bool:
    """Whether an answer is exactly this one."""
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers.get("content-type") == content_type
    assert "server" not in reply.headers
    assert "date" in reply.headers
    return True


@pytest.mark.spec("api-server-rest", 30)
async def test_a_long_target_is_served_and_a_longer_one_is_refused(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        start = "/cdh/resource/"
        target = start + "a" * (65_400 - len(start))
        world.backends.resources[f"kbs:///{target[len(start) :]}"] = b"long"
        assert (await world.get(target)).body == b"long"
        for length in (65_535, 65_540, 200_000):
            reply = await world.get(start + "a" * (length - len(start)))
            assert shows(reply, 414, b"")
            assert reply.headers["connection"] == "close"
        assert (await world.get(start + "a" * (65_534 - len(start)))).status == 500


async def test_many_or_long_header_fields_are_refused(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        good = "".join(f"x-{n}: y\r\n" for n in range(99))
        assert (await world.ask("GET", "/info", headers=good)).status == 200
        for bad in (good + "z: z\r\n", "x: " + "y" * 65_530 + "\r\n"):
            reply = await world.ask("GET", "/info", headers=bad)
            assert shows(reply, 431, b"")
            assert reply.headers["connection"] == "close"


@pytest.mark.spec("api-server-rest", 31)
async def test_connections_behave_as_http_says(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        first = b"GET /cdh/resource/default/key/1 HTTP/1.1\r\nHost: x\r\n\r\n"
        second = b"GET /x HTTP/1.1\r\n\r\n"
        last = b"GET /info HTTP/1.1\r\nConnection: close\r\n\r\n"
        replies = await world.raw(first + second + last + first, replies=4)
        assert [reply.status for reply in replies] == [200, 404, 200]
        assert replies[2].headers["connection"] == "close"
        old = b"GET /cdh/resource/default/key/1 HTTP/1.0\r\n"
        replies = await world.raw(old + b"\r\n" + first, replies=2)
        assert [reply.version for reply in replies] == ["HTTP/1.0"]
        kept = await world.raw((old + b"Connection: keep-alive\r\n\r\n") * 2, replies=2)
        assert [reply.headers["connection"] for reply in kept] == ["keep-alive", "keep-alive"]
        reader, writer = await world.connect()
        head = b"POST /aa/aael HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(EVENT))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(EVENT)
        reply = await read_reply(reader)
        assert reply is not None
        assert reply.body == b'{"success":"true"}'
        writer.close()


async def test_a_peer_that_sends_its_end_still_gets_its_answers(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        world.backends.gate = asyncio.Event()
        reader, writer = await world.connect()
        writer.write(b"GET /info HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\n")
        writer.write_eof()
        while not world.backends.requests:
            await asyncio.sleep(0.001)
        world.backends.gate.set()
        statuses = [getattr(await read_reply(reader), "status", None) for _ in range(3)]
        assert statuses == [200, 404, None]
        writer.close()
        reader, writer = await world.connect()
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("head", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_a_body_that_its_peer_ends_early_is_refused_at_once(
    short_tmp: Path, head: bytes
) -> None:
    async with rest_world(short_tmp) as world:
        reader, writer = await world.connect()
        first = b"GET /x HTTP/1.1\r\n\r\n"
        writer.write(first + b"POST /aa/aael HTTP/1.1\r\n" + head + b"\r\n\r\n1\r\n{\r\n")
        writer.write_eof()
        async with asyncio.timeout(app.BODY_SECONDS / 2):
            replies = [await read_reply(reader) for _ in range(3)]
        assert [getattr(reply, "status", None) for reply in replies] == [404, 500, None]
        text = b"error reading a body from connection: body is malformed or incomplete"
        assert replies[1] is not None
        assert replies[1].body == text
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"GET /info\r\n\r\n",
        b"GET /in fo HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.2\r\n\r\n",
        b"GET /info HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET info HTTP/1.1\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /info HTTP/1.1\nHost: x\n\n",
    ],
)
async def test_a_malformed_request_gets_an_empty_400_and_the_end(
    short_tmp: Path, data: bytes
) -> None:
    async with rest_world(short_tmp) as world:
        replies = await world.raw(data, replies=2)
        assert [(reply.status, reply.body) for reply in replies] == [(400, b"")]


async def test_http_2_is_closed_without_an_answer(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        assert await world.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == []


async def test_a_head_that_does_not_end_and_an_idle_connection_are_closed(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (app.HEAD_SECONDS, app.BODY_SECONDS, app.IDLE_SECONDS) == (10.0, 30.0, 75.0)
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(app, name, 0.3)
    async with rest_world(short_tmp) as world:
        for data in (b"GET /info HT", b"GET /info HTTP/1.1\r\nHost: x\r\n", b""):
            assert await world.raw(data) == []
        replies = await world.raw(b"GET /x HTTP/1.1\r\n\r\n", replies=2)
        assert [reply.status for reply in replies] == [404]
        head = b"POST /aa/aael HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
        (reply,) = await world.raw(head + b"{")
        assert (reply.status, reply.body) == (
            500,
            b"error reading a body from connection: no end in time",
        )


async def test_a_slow_backend_is_no_idle_connection(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(app, "HEAD_SECONDS", 0.1)
    async with rest_world(short_tmp) as world:
        world.backends.gate = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, world.backends.gate.set)
        assert (await world.get("/info")).status == 200


async def test_one_connection_more_than_allowed_is_closed(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.MAX_CONNECTIONS == 1024
    monkeypatch.setattr(app, "MAX_CONNECTIONS", 3)
    async with rest_world(short_tmp) as world:
        held = [await world.connect() for _ in range(3)]
        for reader, writer in held:
            writer.write(b"GET /x HTTP/1.1\r\n\r\n")
            assert await read_reply(reader) is not None
        assert await world.raw(b"GET /x HTTP/1.1\r\n\r\n") == []
        held[0][1].close()
        await held[0][1].wait_closed()
        while not (replies := await world.raw(b"GET /x HTTP/1.1\r\n\r\n")):
            await asyncio.sleep(0.01)
        assert replies[0].status == 404
        for _, writer in held[1:]:
            writer.close()


async def test_a_stop_lets_requests_under_way_finish() -> None:
    class Slow:
        """Answers when it is let."""

        def __init__(self) -> None:
            self.asked, self.gate = asyncio.Event(), asyncio.Event()

        async def answer(self, request: Request) -> Answer:
            self.asked.set()
            await self.gate.wait()
            return Answer(body=request.target.encode())

    slow = Slow()
    server = app.HttpServer(slow)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        await server.serve(listening)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET /slow HTTP/1.1\r\n\r\nGET /next HTTP/1.1\r\n\r\n")
        await slow.asked.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.drain(5.0), name="drain")
            await asyncio.sleep(0)
            slow.gate.set()
            reply = await read_reply(reader)
            assert reply is not None
            assert reply.body == b"/slow"
            assert await read_reply(reader) is None
        writer.close()
