import asyncio

import pytest

from guest.deadline import Deadline
from guest.errors import DeadlineError, GuestError
from guest.protos import methods
from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Routes
from guest.rpc.server import ServerLimits
from guest.rpc.status import Code, Status, StatusError
from support.transports import refused


class Held:
    """A handler that waits until it is let go."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.release = asyncio.Event()
        self.routes = Routes()
        self.routes.bind(methods.GET_RESOURCE, self.get)

    async def get(self, asked: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.release.wait()
        self.running -= 1
        return GetResourceResponse()


async def _get(channel: InProcessChannel, size: int = 1, seconds: float = 20.0) -> None:
    request = GetResourceRequest(ResourcePath="x" * size)
    await channel.call(methods.GET_RESOURCE, request, deadline=Deadline.after(seconds))


async def test_calls_beyond_the_cap_wait_within_their_deadline() -> None:
    held = Held()
    channel = InProcessChannel(held.routes, limits=ServerLimits(calls=2))
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(_get(channel))
        await asyncio.sleep(0)
        assert "free call" in await refused(_get(channel, seconds=0.05), DeadlineError)
        held.release.set()
    assert held.most == 2
    await channel.close()


async def test_request_bytes_beyond_the_limit_wait_too() -> None:
    held = Held()
    channel = InProcessChannel(held.routes, limits=ServerLimits(payload=250_000))
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(_get(channel, 100_000))
        for _ in range(5):
            await asyncio.sleep(0)
        assert held.running == 2
        held.release.set()
    assert held.most == 2
    await channel.close()


async def test_a_caller_that_is_cancelled_cancels_the_handler_and_frees_its_slot() -> None:
    held = Held()
    channel = InProcessChannel(held.routes, limits=ServerLimits(calls=1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_get(channel))
        while not held.running:
            await asyncio.sleep(0)
        task.cancel()
    held.release.set()
    await _get(channel)
    await channel.close()


@pytest.mark.parametrize(
    ("seconds", "code", "text"),
    [
        (0.4, Code.DEADLINE_EXCEEDED, "timeout"),
        (20.0, Code.DEADLINE_EXCEEDED, "[CDH] [ERROR]: Get Resource failed"),
        (0.4, Code.INTERNAL, "[CDH] [ERROR]: Get Resource failed"),
    ],
    ids=["the caller's limit", "a limit of its own", "another failure"],
)
async def test_only_what_the_caller_s_limit_ended_reads_so_and_keeps_its_causes(
    seconds: float, code: Code, text: str
) -> None:
    async def get(asked: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        detail = ErrorDetail(code="deadline", status=code, causes=["the KBS did not answer"])
        message = "[CDH] [ERROR]: Get Resource failed"
        raise StatusError(Status(code=code, message=message, detail=detail))

    routes = Routes()
    routes.bind(methods.GET_RESOURCE, get)
    channel = InProcessChannel(routes)
    with pytest.raises(GuestError) as caught:
        await _get(channel, seconds=seconds)
    assert str(caught.value) == f"{text}: the KBS did not answer"
    await channel.close()


async def test_a_channel_that_was_never_used_closes() -> None:
    await InProcessChannel(Routes()).close()
