"""guest/rpc/calls.py: when the line of a call is written, and which time it bears."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from guest.deadline import Deadline
from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.protos.methods import GET_RESOURCE
from guest.rpc import calls as module
from guest.rpc.calls import LINES_AT_ONCE, Calls, Outcome
from guest.rpc.method import CallContext, Routes
from guest.rpc.status import Code, Status, StatusError
from support.transports import Observer, eventually

Serve = Callable[[str], Awaitable[Outcome]]


async def answer(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
    if request.ResourcePath == "bad":
        raise StatusError(Status(code=Code.NOT_FOUND, message="no"))
    return GetResourceResponse()


@asynccontextmanager
async def serving(observer: Observer) -> AsyncIterator[Serve]:
    calls = Calls(observer, 10.0)
    await calls.open()
    routes = Routes()
    routes.bind(GET_RESOURCE, answer)
    bound = routes.find(GET_RESOURCE.service, GET_RESOURCE.name)

    async def serve(path: str) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        context = CallContext(deadline=Deadline.after(20))
        request = GetResourceRequest(ResourcePath=path)
        calls.start(bound, request, context, outcome.set_result)
        return await outcome

    yield serve
    await calls.finish(1, 1)
    await calls.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "guest.rpc.calls")
    return caplog


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is written because its time has come."""
    monkeypatch.setattr(module, "LINE_SECONDS", 3600.0)


async def test_the_line_of_a_call_that_went_well_follows_by_itself(
    log: pytest.LogCaptureFixture,
) -> None:
    observer = Observer()
    async with serving(observer) as serve:
        await serve("good")
        assert [code for _path, code, _detail in observer.ended] == [Code.OK]
        await eventually(lambda: len(log.records) == 1)


@pytest.mark.usefixtures("never")
async def test_a_failure_is_written_at_once_after_what_waits_each_with_its_own_time(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module, "boot_seconds", lambda: clock[0])
    async with serving(Observer()) as serve:
        await serve("good")
        clock[0] += 500
        assert log.records == []
        await serve("bad")
        await eventually(lambda: len(log.records) == 2)
    first, second = log.records
    assert [vars(line)["code"] for line in log.records] == ["OK", "NOT_FOUND"]
    assert [vars(line)["seconds"] for line in log.records] == [0, 0]
    assert second.created - first.created == pytest.approx(500, abs=60)


@pytest.mark.usefixtures("never")
async def test_no_more_than_so_many_lines_wait(log: pytest.LogCaptureFixture) -> None:
    async with serving(Observer()) as serve:
        for _ in range(LINES_AT_ONCE - 1):
            await serve("good")
        assert log.records == []
        await serve("good")
        await eventually(lambda: len(log.records) == LINES_AT_ONCE)


@pytest.mark.usefixtures("never")
async def test_a_server_that_stops_writes_what_waits(log: pytest.LogCaptureFixture) -> None:
    async with serving(Observer()) as serve:
        await serve("good")
        await serve("good")
        assert log.records == []
    assert [vars(line)["code"] for line in log.records] == ["OK", "OK"]
    assert len({vars(line)["request"] for line in log.records}) == 2
