"""Backends that restart, die, are slow or silent; what is shared, bounded and kept quiet."""

import asyncio
import logging
from pathlib import Path

import pytest

from api_server_rest import backend
from guest.deadline import boot_seconds
from support.rest_world import Reply, rest_world


def shows(reply: Reply, status: int, body: bytes, content_type: str | None = None) -> bool:
    """Whether an answer is exactly this one."""
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers.get("content-type") == content_type
    assert "server" not in reply.headers
    assert "date" in reply.headers
    return True


@pytest.mark.spec("api-server-rest", 32)
async def test_a_restarted_backend_serves_the_next_request(short_tmp: Path) -> None:
    async with rest_world(short_tmp, with_cdh=False) as world:
        for _ in range(2):
            server = world.backends.cdh_server()
            await server.bind()
            await server.publish()
            assert (await world.get("/cdh/resource/default/key/1")).body == b"key1"
            await server.drain(0.1)


@pytest.mark.spec("api-server-rest", 33)
async def test_a_backend_that_dies_during_a_get_is_asked_once_more(short_tmp: Path) -> None:
    seen = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await reader.read(1)
        seen += 1
        writer.close()

    async with rest_world(short_tmp, with_cdh=False) as world:
        path = world.backends.cdh_address.removeprefix("unix://")
        server = await asyncio.start_unix_server(cut, path)
        assert shows(await world.get("/cdh/resource/a"), 500, b"ttrpc request error")
        assert seen == 2
        server.close()


@pytest.mark.spec("api-server-rest", 34)
async def test_one_slow_resource_holds_nobody_up(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        backends = world.backends
        backends.gate = asyncio.Event()
        backends.resources = {f"kbs:///{n}": str(n).encode() for n in range(200)}
        backends.resources["kbs:///slow"] = b"slow"
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(world.get("/cdh/resource/slow"), name="slow")
            asked = [
                tasks.create_task(world.get(f"/cdh/resource/{n}"), name=f"get {n}")
                for n in range(200)
            ]
            for number, task in enumerate(asked):
                assert (await task).body == str(number).encode()
            assert not slow.done()
            backends.gate.set()
        assert slow.result().body == b"slow"


async def test_those_who_ask_for_one_resource_at_a_time_share_one_call(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        backends = world.backends
        backends.gate = asyncio.Event()
        backends.resources["kbs:///slow"] = b"slow"
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(world.get("/cdh/resource/slow"), name=f"get {n}")
                for n in range(20)
            ]
            while backends.under_way < 1:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            backends.gate.set()
        assert {task.result().body for task in asked} == {b"slow"}
        assert len(backends.requests) == 1
        await world.get("/cdh/resource/slow")
        assert len(backends.requests) == 2


async def test_at_most_four_attestations_are_under_way(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        backends = world.backends
        backends.gate = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                for target in ("token?token_type=a", "evidence?runtime_data=a"):
                    tasks.create_task(world.get(f"/aa/{target}"), name=f"{target} {number}")
            while backends.under_way < 4:
                await asyncio.sleep(0.001)
            assert (await world.get("/x")).status == 404
            backends.gate.set()
        assert len(backends.requests) == 8
        assert backends.most_under_way == 4


@pytest.mark.spec("api-server-rest", 35)
async def test_a_silent_backend_has_fifty_seconds(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.BACKEND_SECONDS == 50.0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with rest_world(short_tmp, with_cdh=False) as world:
        path = world.backends.cdh_address.removeprefix("unix://")
        server = await asyncio.start_unix_server(silent, path)
        monkeypatch.setattr(backend, "BACKEND_SECONDS", 0.5)
        started = boot_seconds()
        reply = await world.get("/cdh/resource/a")
        assert shows(reply, 500, b"ttrpc request error")
        assert 0.5 <= boot_seconds() - started < 15
        assert reply.headers["x-coco-error"] == "deadline"
        server.close()


async def test_the_backend_is_told_its_fifty_seconds(short_tmp: Path) -> None:
    async with rest_world(short_tmp) as world:
        await world.get("/cdh/resource/default/key/1")
        await world.get("/aa/token?token_type=kbs")
        assert all(40 < seconds <= 50 for seconds in world.backends.deadlines)


@pytest.mark.spec("api-server-rest", 36)
async def test_no_secret_reaches_the_log(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    async with rest_world(short_tmp) as world:
        world.backends.resources["kbs:///s"] = b"RESOURCE-SECRET"
        await world.get("/cdh/resource/s")
        await world.get("/aa/token?token_type=TYPE-SECRET")
        await world.get("/aa/evidence?runtime_data=DATA-SECRET")
        event = b'{"domain":"d","operation":"o","content":"EVENT-SECRET"}'
        await world.ask("POST", "/aa/aael", event)
    shown = [str(vars(record)) for record in caplog.records if record.levelno > logging.NOTSET]
    assert shown
    assert not [line for line in shown if "SECRET" in line]


async def test_requests_of_browsers_are_refused_where_that_is_wanted(short_tmp: Path) -> None:
    async with rest_world(short_tmp, refuse_origin=True) as world:
        reply = await world.ask("GET", "/info", headers="Origin: http://evil\r\n")
        assert shows(reply, 403, b"Forbidden")
        assert (await world.get("/info")).status == 200
    async with rest_world(short_tmp) as world:
        reply = await world.ask("GET", "/info", headers="Origin: http://evil\r\n")
        assert reply.status == 200
