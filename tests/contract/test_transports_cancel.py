"""How calls end early, over all three transports."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    UnavailableError,
)
from guest.protos import methods
from guest.protos.aa_pb2 import (
    ExtendRuntimeMeasurementRequest,
    ExtendRuntimeMeasurementResponse,
)
from guest.protos.cdh_pb2 import (
    GetResourceRequest,
    GetResourceResponse,
    ImagePullRequest,
    ImagePullResponse,
)
from guest.rpc.method import CallContext, Routes
from support.transports import TRANSPORTS, connected, refused

Serve = Callable[[GetResourceRequest, CallContext], Awaitable[GetResourceResponse]]

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)

REQUEST = GetResourceRequest(ResourcePath="kbs:///default/key/1")


def routes_of(serve: Serve) -> Routes:
    routes = Routes()
    routes.bind(methods.GET_RESOURCE, serve)
    return routes


async def echo(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
    return GetResourceResponse(Resource=request.ResourcePath.encode())


async def test_a_cancelled_caller_leaves_a_channel_that_works(
    transport: str, short_tmp: Path
) -> None:
    started = asyncio.Event()

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        if request.ResourcePath == "slow":
            started.set()
            await asyncio.sleep(60)
        return await echo(request, context)

    async with connected(transport, routes_of(serve), short_tmp) as channel:
        request = GetResourceRequest(ResourcePath="slow")
        call = channel.call(methods.GET_RESOURCE, request, deadline=Deadline.after(30))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call)
            async with asyncio.timeout(10):
                await started.wait()
            task.cancel()
        assert task.cancelled()
        reply = await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert reply.Resource == REQUEST.ResourcePath.encode()


async def test_a_closed_channel_is_unavailable_and_closes_twice(
    transport: str, short_tmp: Path
) -> None:
    async with connected(transport, routes_of(echo), short_tmp) as channel:
        await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        await channel.close()
        await channel.close()
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        await refused(call, UnavailableError)


async def test_closing_a_channel_fails_the_calls_under_way(transport: str, short_tmp: Path) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return GetResourceResponse()

    async with connected(transport, routes_of(serve), short_tmp) as channel:

        async def calls() -> None:
            call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(30))
            await refused(call, UnavailableError)

        async with asyncio.TaskGroup() as group:
            group.create_task(calls())
            async with asyncio.timeout(10):
                await started.wait()
            await channel.close()
        async with asyncio.timeout(10):
            await cancelled.wait()


async def test_a_method_that_finishes_runs_on_after_its_deadline(
    transport: str, short_tmp: Path
) -> None:
    release, finished = asyncio.Event(), asyncio.Event()

    async def serve(
        request: ExtendRuntimeMeasurementRequest, context: CallContext
    ) -> ExtendRuntimeMeasurementResponse:
        await release.wait()
        finished.set()
        return ExtendRuntimeMeasurementResponse()

    routes = Routes()
    routes.bind(methods.EXTEND_RUNTIME_MEASUREMENT, serve)
    async with connected(transport, routes, short_tmp) as channel:
        call = channel.call(
            methods.EXTEND_RUNTIME_MEASUREMENT,
            ExtendRuntimeMeasurementRequest(),
            deadline=Deadline.after(0.1),
        )
        await refused(call, DeadlineError)
        release.set()
        async with asyncio.timeout(10):
            await finished.wait()


async def test_a_method_that_rolls_back_is_cancelled_once_and_left_alone(
    transport: str, short_tmp: Path
) -> None:
    undone = asyncio.Event()
    release = asyncio.Event()

    async def serve(request: ImagePullRequest, context: CallContext) -> ImagePullResponse:
        try:
            await asyncio.sleep(60)
        finally:
            await release.wait()
            undone.set()
        return ImagePullResponse()

    routes = Routes()
    routes.bind(methods.PULL_IMAGE, serve)
    async with connected(transport, routes, short_tmp) as channel:
        deadline = Deadline.after(0.1)
        call = channel.call(methods.PULL_IMAGE, ImagePullRequest(), deadline=deadline)
        await refused(call, DeadlineError)
        release.set()
        async with asyncio.timeout(10):
            await undone.wait()
