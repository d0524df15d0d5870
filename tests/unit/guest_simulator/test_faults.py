"""Faults, the request log and the service below both servers."""

import asyncio
import json
import re
import time
from typing import Any

import aiohttp
import pytest

from guest_simulator.control import Control
from guest_simulator.faults import Fault, Faults, Lie, kbs_error
from guest_simulator.reply import Reply
from guest_simulator.service import HttpService, Incoming

BODY = bytes(range(256)) * 4096


async def answer(request: Incoming) -> Reply:
    if request.path == "/big":
        return Reply(headers={"Content-Type": "application/x-test"}, body=BODY)
    return Reply(body=request.path.encode())


async def fetch(service: HttpService, path: str = "/a", method: str = "GET") -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.request(method, service.url + path) as response:
            return response.status, await response.read()


async def drain(response: aiohttp.ClientResponse, into: bytearray) -> None:
    async for piece in response.content.iter_any():
        into += piece


def test_a_fault_hits_what_it_names_as_often_as_it_says() -> None:
    faults = Faults()
    armed = faults.add(Fault(method="GET", path=r"^/a\?x", skip=1, times=2))
    hits = [bool(faults.take("GET", "/a?x=1")) for _ in range(5)]
    assert hits == [False, True, True, False, False]
    assert (armed.seen, armed.hits) == (5, 2)
    assert not faults.take("POST", "/a?x=1")
    assert not faults.take("GET", "/b")
    other = faults.add(Fault())
    assert faults.take("PUT", "/b") == (other.fault,)
    faults.remove(other)
    faults.remove(other)
    assert not faults.take("PUT", "/b")
    with pytest.raises(re.error):
        Fault(path="(")


async def test_status_body_and_headers_are_replaced() -> None:
    async with HttpService(answer) as service:
        service.faults.add(Fault(status=503, headers={"Retry-After": "7"}, times=1))
        service.faults.add(Fault(body=b"other", headers={"Content-Type": "a/b"}, skip=1, times=1))
        assert await fetch(service) == (503, b"")
        assert await fetch(service) == (200, b"other")
        assert await fetch(service) == (200, b"/a")


async def test_bytes_are_flipped_and_sizes_changed() -> None:
    async with HttpService(answer) as service:
        service.faults.add(Fault(flip=0, times=1))
        service.faults.add(Fault(flip=-1, skip=1, times=1))
        service.faults.add(Fault(resize=-1, skip=2, times=1))
        service.faults.add(Fault(resize=2, skip=3, times=1))
        service.faults.add(Fault(flip=99, skip=4, times=1))
        bodies = [(await fetch(service))[1] for _ in range(5)]
    assert bodies == [b".a", b"/`", b"/", b"/a\0\0", b"/a"]


@pytest.mark.parametrize("cut", [0, 1, 700_000])
async def test_a_cut_connection_has_sent_so_many_bytes_of_the_promised(cut: int) -> None:
    async with HttpService(answer) as service:
        service.faults.add(Fault(cut_after=cut, times=1))
        got = bytearray()
        async with aiohttp.ClientSession() as session:
            async with session.get(service.url + "/big") as response:
                assert response.content_length == len(BODY)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await drain(response, got)
        assert got == BODY[:cut]
        assert (await fetch(service, "/big"))[1] == BODY
        assert [record.sent for record in service.requests] == [cut, len(BODY)]


async def test_a_dropped_connection_has_no_answer() -> None:
    async with HttpService(answer) as service:
        service.faults.add(Fault(drop=True, times=1))
        with pytest.raises(aiohttp.ClientConnectionError):
            await fetch(service, method="POST")
        assert await fetch(service) == (200, b"/a")
        assert [record.status for record in service.requests] == [0, 200]


async def test_a_stalled_body_stays_open_until_the_server_stops() -> None:
    async with HttpService(answer) as service:
        service.faults.add(Fault(stall_after=10))
        async with aiohttp.ClientSession() as session:
            async with session.get(service.url + "/big") as response:
                assert await response.content.readexactly(10) == BODY[:10]
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await response.content.readany()


async def test_an_answer_is_delayed_and_stopping_does_not_wait_for_it() -> None:
    started = time.monotonic()
    async with HttpService(answer) as service:
        service.faults.add(Fault(delay=0.1, times=1))
        await fetch(service)
        assert time.monotonic() - started >= 0.1
        service.faults.add(Fault(delay=1000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await fetch(service)
    assert time.monotonic() - started < 30


async def test_a_server_comes_back_on_its_port() -> None:
    service = HttpService(answer)
    async with service:
        url = service.url
        await fetch(service)
    with pytest.raises(aiohttp.ClientConnectorError):
        async with aiohttp.ClientSession() as session:
            await session.get(url)
    async with service:
        assert service.url == url
        assert (await fetch(service))[0] == 200


async def test_the_log_tells_what_was_asked() -> None:
    async with HttpService(answer) as service:
        async with aiohttp.ClientSession() as session:
            for path in ("/a?b=1", "/a%2Fb"):
                async with session.get(service.url + path, headers={"X-Other": "1"}):
                    pass
        first = service.requests[0]
        assert (first.method, first.path, first.query, first.status) == ("GET", "/a", "b=1", 200)
        assert first.headers["user-agent"].startswith("Python")
        assert "x-other" not in first.headers
        assert first.seconds >= 0
        assert service.requests.count("GET", "^/a") == len(service.requests) == 2
        assert service.requests.count(status=500) == service.requests.count("PUT") == 0
        service.requests.clear()
        assert not list(service.requests)


async def test_a_handlers_answer_may_have_no_type_and_head_no_body() -> None:
    async with HttpService(answer) as service:
        async with aiohttp.ClientSession() as session:
            async with session.head(service.url + "/big") as response:
                assert response.headers["Content-Length"] == str(len(BODY))
                assert await response.read() == b""
            async with session.get(service.url + "/a") as response:
                assert "Content-Type" not in response.headers


def test_kbs_error_is_an_answer_of_any_type() -> None:
    fault = kbs_error("PolicyDeny", "no", path="/resource/", times=1)
    assert fault.body is not None
    kind = "https://github.com/confidential-containers/kbs/errors/PolicyDeny"
    assert json.loads(fault.body) == {"type": kind, "detail": "no"}
    assert (fault.status, fault.times) == (401, 1)


async def test_another_process_steers_through_http() -> None:
    knobs: dict[str, float] = {}
    async with HttpService(answer) as service:
        service.control = Control(
            service.faults,
            service.requests,
            lambda: {"things": 3},
            {"speed": lambda value: knobs.__setitem__("speed", value)},
        ).answer

        async def control(method: str, path: str, body: object = None) -> tuple[int, Any]:
            url = f"{service.url}/_simulator/{path}"
            async with aiohttp.ClientSession() as session:
                async with session.request(method, url, json=body) as response:
                    data = await response.read()
                    typed = response.content_type == "application/json"
                    return response.status, json.loads(data) if typed else data

        fault = {"path": "^/a", "status": 418, "body": "tea", "times": 1}
        assert (await control("POST", "faults", fault))[0] == 200
        assert await fetch(service) == (418, b"tea")
        assert await control("GET", "stats") == (200, {"things": 3, "requests": 1})
        assert (await control("GET", "requests"))[1][0]["status"] == 418
        lie = {"lie": "denial", "path": "/nowhere"}
        assert (await control("POST", "faults", lie))[0] == 200
        for wrong in ({"lie": "x"}, {"nothing": 1}, {"path": "("}, [1]):
            assert (await control("POST", "faults", wrong))[0] == 400
        assert (await control("POST", "knobs", {"speed": 2}))[0] == 200
        assert knobs == {"speed": 2}
        for wrong in ({"speed": "x"}, {"other": 1}, []):
            assert (await control("POST", "knobs", wrong))[0] == 400
        assert (await control("DELETE", "faults"))[0] == 200
        assert (await control("DELETE", "requests"))[0] == 200
        assert (await control("GET", "stats"))[1]["requests"] == 0
        assert (await control("GET", "other"))[0] == 404


def test_every_lie_has_a_name_of_its_own() -> None:
    assert len({str(lie) for lie in Lie}) == len(Lie)
