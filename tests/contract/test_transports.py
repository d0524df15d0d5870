"""One suite over ttRPC, gRPC and the in-process channel: nobody above can tell them apart."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PeerError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from guest.protos import methods
from guest.protos.aa_pb2 import (
    GetTokenRequest,
    GetTokenResponse,
)
from guest.protos.cdh_pb2 import (
    GetResourceRequest,
    GetResourceResponse,
)
from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.method import MAX_MESSAGE_LENGTH, CallContext, Metadata, Routes
from guest.rpc.status import Code, Status, StatusError, status_of
from support.transports import TRANSPORTS, Observer, connected, eventually, refused

Serve = Callable[[GetResourceRequest, CallContext], Awaitable[GetResourceResponse]]

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)

REQUEST = GetResourceRequest(ResourcePath="kbs:///default/key/1")
LARGEST = MAX_MESSAGE_LENGTH - 12
"""Largest resource that fits a ttRPC Response with its empty status: 4,194,292 bytes."""


def routes_of(serve: Serve) -> Routes:
    routes = Routes()
    routes.bind(methods.GET_RESOURCE, serve)
    return routes


async def echo(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
    return GetResourceResponse(Resource=request.ResourcePath.encode())


def failing(error: BaseException) -> Serve:
    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        raise error

    return serve


@pytest.mark.spec("protos", 16)
async def test_a_response_arrives_with_arbitrary_bytes(transport: str, short_tmp: Path) -> None:
    content = bytes(range(256)) * 3

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        return GetResourceResponse(Resource=content)

    async with connected(transport, routes_of(serve), short_tmp) as channel:
        reply = await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert reply.Resource == content
    routes = Routes()

    async def unseal(request: object, context: CallContext) -> object:
        return methods.UNSEAL_SECRET.response(plaintext=request.secret)  # type: ignore[attr-defined]  # any message

    routes.bind(methods.UNSEAL_SECRET, unseal)  # type: ignore[arg-type]  # as above
    async with connected(transport, routes, short_tmp) as channel:
        sealed = methods.UNSEAL_SECRET.request(secret=content)
        opened = await channel.call(methods.UNSEAL_SECRET, sealed, deadline=Deadline.after(10))
        assert opened.plaintext == content


async def test_many_calls_at_a_time_get_their_own_answers(transport: str, short_tmp: Path) -> None:
    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        await asyncio.sleep(0)
        return await echo(request, context)

    async with connected(transport, routes_of(serve), short_tmp) as channel:

        async def one(number: int) -> None:
            request = GetResourceRequest(ResourcePath=str(number))
            deadline = Deadline.after(30)
            reply = await channel.call(methods.GET_RESOURCE, request, deadline=deadline)
            assert reply.Resource == str(number).encode()

        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(one(number))


async def test_metadata_keeps_order_and_duplicates_with_lower_case_keys(
    transport: str, short_tmp: Path
) -> None:
    seen: list[Metadata] = []

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        seen.append(context.metadata)
        return GetResourceResponse()

    async with connected(transport, routes_of(serve), short_tmp) as channel:
        await channel.call(
            methods.GET_RESOURCE,
            REQUEST,
            deadline=Deadline.after(10),
            metadata=(("K1", "a"), ("k2", "x"), ("k1", "b")),
        )
    [pairs] = seen
    # gRPC groups by key; the order within a key is what is promised
    assert sorted(pairs, key=lambda pair: pair[0]) == [("k1", "a"), ("k1", "b"), ("k2", "x")]


async def test_the_handler_knows_the_callers_deadline_and_who_calls(
    transport: str, short_tmp: Path
) -> None:
    seen: list[CallContext] = []

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        seen.append(context)
        return GetResourceResponse()

    async with connected(transport, routes_of(serve), short_tmp) as channel:
        await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(20))
        assert 10 < seen[0].deadline.remaining() < 21  # gRPC rounds up
        await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.unlimited())
        assert 50 < seen[1].deadline.remaining() <= 60
    assert seen[0].peer


async def test_a_deadline_ends_the_call_and_cancels_the_handler(
    transport: str, short_tmp: Path
) -> None:
    cancelled = asyncio.Event()

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return GetResourceResponse()

    async with connected(transport, routes_of(serve), short_tmp) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(0.2))
        await refused(call, DeadlineError)
        async with asyncio.timeout(10):
            await cancelled.wait()


async def test_a_deadline_that_is_over_fails_without_a_call(
    transport: str, short_tmp: Path
) -> None:
    served: list[object] = []

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        served.append(request)
        return GetResourceResponse()

    async with connected(transport, routes_of(serve), short_tmp) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(-1))
        await refused(call, DeadlineError)
    assert served == []


ERRORS = (
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
    UnauthenticatedError,
    DeniedError,
    IntegrityError,
    PlatformError,
    PeerError,
    UnavailableError,
    DeadlineError,
    LimitError,
)


@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_arrives_as_its_class_behind_the_fixed_text(
    kind: type[GuestError], transport: str, short_tmp: Path
) -> None:
    observer = Observer()
    failure = kind("the cause")

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        raise StatusError(status_of(failure, "[CDH] [ERROR]: Get Resource failed"))

    async with connected(transport, routes_of(serve), short_tmp, observer) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        text = await refused(call, kind)
    assert text == "[CDH] [ERROR]: Get Resource failed: the cause"
    [(path, code, detail)] = observer.ended
    assert path == "/api.GetResourceService/GetResource"
    assert code is (Code.DEADLINE_EXCEEDED if kind is DeadlineError else Code.INTERNAL)
    assert detail is not None
    assert detail.code == kind.code


async def test_a_status_without_detail_arrives_as_the_class_of_its_code(
    transport: str, short_tmp: Path
) -> None:
    status = Status(code=Code.NOT_FOUND, message="nothing & näher")
    async with connected(transport, routes_of(failing(StatusError(status))), short_tmp) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert await refused(call, NotFoundError) == "nothing & näher"


async def test_a_bug_is_internal_with_a_short_text_and_a_traceback_in_the_log(
    transport: str, short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(
        transport, routes_of(failing(RuntimeError("private"))), short_tmp
    ) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert await refused(call, PeerError) == "internal error"
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "private" in str(record.exc_info[1])


async def test_a_handler_that_cancels_itself_is_a_bug(transport: str, short_tmp: Path) -> None:
    serve = failing(asyncio.CancelledError())
    async with connected(transport, routes_of(serve), short_tmp) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert await refused(call, PeerError) == "internal error"


async def test_unknown_methods_and_services_are_refused(transport: str, short_tmp: Path) -> None:
    routes = routes_of(echo)
    routes.declare(methods.BIND_INIT_DATA)
    async with connected(transport, routes, short_tmp) as channel:
        declared = channel.call(
            methods.BIND_INIT_DATA, methods.BIND_INIT_DATA.request(), deadline=Deadline.after(10)
        )
        text = "/attestation_agent.AttestationAgentService/BindInitData is not supported"
        assert await refused(declared, NotFoundError) == text
        unknown = channel.call(methods.GET_TOKEN, GetTokenRequest(), deadline=Deadline.after(10))
        await refused(unknown, UnsupportedError)
        strange = channel.call(
            methods.UNSEAL_SECRET, methods.UNSEAL_SECRET.request(), deadline=Deadline.after(10)
        )
        # gRPC has one code for both
        kind = UnsupportedError if transport == "grpc" else InvalidInputError
        await refused(strange, kind)


@pytest.mark.spec("protos", 14)
async def test_the_largest_message_passes_and_one_byte_more_is_a_limit_error(
    transport: str, short_tmp: Path
) -> None:
    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        return GetResourceResponse(Resource=bytes(int(request.ResourcePath)))

    # gRPC has no envelope: five bytes of field header are all there is
    largest = MAX_MESSAGE_LENGTH - 5 if transport == "grpc" else LARGEST
    async with connected(transport, routes_of(serve), short_tmp) as channel:
        for size in (LARGEST, largest):
            request = GetResourceRequest(ResourcePath=str(size))
            deadline = Deadline.after(30)
            reply = await channel.call(methods.GET_RESOURCE, request, deadline=deadline)
            assert len(reply.Resource) == size
        request = GetResourceRequest(ResourcePath=str(largest + 1))
        call = channel.call(methods.GET_RESOURCE, request, deadline=Deadline.after(30))
        await refused(call, LimitError)
        reply = await channel.call(
            methods.GET_RESOURCE, GetResourceRequest(ResourcePath="3"), deadline=Deadline.after(10)
        )
        assert reply.Resource == bytes(3)


async def test_a_request_that_is_too_long_is_a_limit_error_and_the_channel_goes_on(
    transport: str, short_tmp: Path
) -> None:
    async with connected(transport, routes_of(echo), short_tmp) as channel:
        request = GetResourceRequest(ResourcePath="x" * MAX_MESSAGE_LENGTH)
        call = channel.call(methods.GET_RESOURCE, request, deadline=Deadline.after(30))
        await refused(call, LimitError)
        reply = await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert reply.Resource == REQUEST.ResourcePath.encode()


async def test_the_observer_learns_the_outcome_of_every_call(
    transport: str, short_tmp: Path
) -> None:
    observer = Observer()

    async def serve(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        if request.ResourcePath == "slow":
            await asyncio.sleep(60)
        return GetResourceResponse()

    async with connected(transport, routes_of(serve), short_tmp, observer) as channel:
        await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        request = GetResourceRequest(ResourcePath="slow")
        call = channel.call(methods.GET_RESOURCE, request, deadline=Deadline.after(0.2))
        await refused(call, DeadlineError)
        await eventually(lambda: len(observer.ended) == 2)
    codes = [code for _path, code, _detail in observer.ended]
    assert codes[0] is Code.OK
    # a gRPC server may hear of the reset before its own timer rings
    assert codes[1] in {Code.DEADLINE_EXCEEDED, Code.CANCELLED}


async def test_each_call_leaves_one_info_line_with_outcome_duration_and_peer(
    transport: str, short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connected(transport, routes_of(echo), short_tmp) as channel:
        await channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
    lines = [record for record in caplog.records if record.getMessage() == "call ended"]
    [line] = lines
    assert line.levelno == logging.INFO
    fields = vars(line)
    assert fields["method"] == "/api.GetResourceService/GetResource"
    assert fields["code"] == "OK"
    assert fields["seconds"] >= 0
    assert fields["peer"]


async def test_details_that_a_handler_gives_arrive_whole(transport: str, short_tmp: Path) -> None:
    detail = ErrorDetail(code="denied", status=Code.PERMISSION_DENIED, causes=["a", "b"])
    status = Status(code=Code.INTERNAL, message="no", detail=detail)
    async with connected(transport, routes_of(failing(StatusError(status))), short_tmp) as channel:
        call = channel.call(methods.GET_RESOURCE, REQUEST, deadline=Deadline.after(10))
        assert await refused(call, DeniedError) == "no: a: b"


async def test_token_bytes_survive(transport: str, short_tmp: Path) -> None:
    async def serve(request: GetTokenRequest, context: CallContext) -> GetTokenResponse:
        return GetTokenResponse(Token=request.TokenType.encode() + b"\x00\xff")

    routes = Routes()
    routes.bind(methods.GET_TOKEN, serve)
    async with connected(transport, routes, short_tmp) as channel:
        request = GetTokenRequest(TokenType="kbs")
        reply = await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(10))
    assert reply.Token == b"kbs\x00\xff"
