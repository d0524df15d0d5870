"""Our client calls servers on the Go and Rust ttRPC libraries."""

import asyncio
from collections.abc import AsyncIterator
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
    UnsupportedError,
)
from guest.protos import methods
from guest.protos.aa_pb2 import GetEvidenceRequest, GetTeeTypeRequest
from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.rpc.method import Metadata, Method
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.frame import MAX_DATA_LENGTH
from support.ttrpc_peers import SECONDS, Serving, serving

pytestmark = [
    pytest.mark.ttrpc_peers,
    pytest.mark.spec("ttrpc", 35),
    pytest.mark.parametrize("peer", ["go", "rust"]),
]

OVERHEAD: Final = 66
"""Bytes of a GetEvidence Request around 4 MB of data, without a timeout."""

LARGEST_REPLY: Final = {"go": 4_194_294, "rust": 4_194_292}
"""Bytes of the longest resource: Go leaves the status of a success out."""

RAW: Final = Method(
    "api.GetResourceService", "GetResource", GetEvidenceRequest, GetResourceResponse
)
"""GetResource with any bytes where a text belongs."""


@asynccontextmanager
async def connected(peer: str, directory: Path) -> AsyncIterator[tuple[Serving, TtrpcChannel]]:
    path = f"{directory}/s.sock"
    async with serving(peer, path) as server:
        channel = TtrpcChannel(f"unix://{path}")
        try:
            yield server, channel
        finally:
            await channel.close()


async def get(
    channel: TtrpcChannel,
    what: str,
    *,
    metadata: Metadata = (),
    deadline: Deadline | None = None,
) -> bytes:
    async with asyncio.timeout(SECONDS):
        answer = await channel.call(
            methods.GET_RESOURCE,
            GetResourceRequest(ResourcePath=what),
            deadline=deadline or Deadline.unlimited(),
            metadata=metadata,
        )
    return answer.Resource


async def still_works(channel: TtrpcChannel) -> None:
    assert await get(channel, "kbs:///a/b/c") == b"value of kbs:///a/b/c"


async def test_we_get_answers_and_empty_answers(peer: str, short_tmp: Path) -> None:
    async with connected(peer, short_tmp) as (_, channel):
        await still_works(channel)
        assert await get(channel, "empty") == b""
        deadline = Deadline.after(SECONDS)
        answer = await channel.call(methods.GET_TEE_TYPE, GetTeeTypeRequest(), deadline=deadline)
        assert answer.tee == "sample"


async def test_their_failures_are_our_errors(peer: str, short_tmp: Path) -> None:
    async with connected(peer, short_tmp) as (_, channel):
        with pytest.raises(PeerError, match=r"^\[CDH\] \[ERROR\]: Get Resource failed$"):
            await get(channel, "fail")
        nobody = Method("nope.Svc", "Nope", GetTeeTypeRequest, GetResourceResponse)
        nothing = Method("api.GetResourceService", "Nope", GetTeeTypeRequest, GetResourceResponse)
        unknown: dict[str, tuple[type[Exception], str, str]] = {
            "go": (UnsupportedError, "service nope.Svc", "method Nope"),
            "rust": (InvalidInputError, "nope.Svc service does not exist", "Nope method"),
        }
        kind, service, method = unknown[peer]
        deadline = Deadline.after(SECONDS)
        with pytest.raises(kind, match=f"^{service}$"):
            await channel.call(nobody, GetTeeTypeRequest(), deadline=deadline)
        with pytest.raises(UnsupportedError, match=f"^{method}$"):
            await channel.call(nothing, GetTeeTypeRequest(), deadline=deadline)
        with pytest.raises(PeerError, match="ttrpc"):
            await channel.call(RAW, GetEvidenceRequest(RuntimeData=b"\xff"), deadline=deadline)
        await still_works(channel)


async def test_our_deadline_cancels_their_handler_and_their_status_is_our_error(
    peer: str, short_tmp: Path
) -> None:
    texts = {"go": "context deadline exceeded", "rust": "timeout"}
    async with connected(peer, short_tmp) as (server, channel):
        with pytest.raises(DeadlineError, match=f"^{texts[peer]}$"):
            await get(channel, "wait", deadline=Deadline.after(0.3))
        await server.heard("cancelled", "wait")
        await still_works(channel)


async def test_our_calls_at_once_are_each_answered_and_a_slow_one_holds_up_none(
    peer: str, short_tmp: Path
) -> None:
    async with connected(peer, short_tmp) as (server, channel):
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(get(channel, "wait"), name="slow")
            await server.heard("started", "wait")
            tasks = [
                group.create_task(get(channel, f"call {number}"), name=f"call {number}")
                for number in range(100)
            ]
            async with asyncio.timeout(SECONDS):
                answers = [await task for task in tasks]
            assert answers == [f"value of call {number}".encode() for number in range(100)]
            assert not slow.done()
            slow.cancel()


async def test_their_largest_answer_reaches_us_and_one_byte_more_is_an_error(
    peer: str, short_tmp: Path
) -> None:
    largest = LARGEST_REPLY[peer]
    async with connected(peer, short_tmp) as (_, channel):
        assert await get(channel, f"size:{largest}") == bytes(largest)
        kind = {"go": UnavailableError, "rust": LimitError}[peer]  # Go closes the connection
        with pytest.raises(kind):
            await get(channel, f"size:{largest + 1}")
        await still_works(channel)


async def test_our_largest_request_is_served_and_one_byte_more_is_not_sent(
    peer: str, short_tmp: Path
) -> None:
    async with connected(peer, short_tmp) as (_, channel):
        unlimited = Deadline.unlimited()
        size = MAX_DATA_LENGTH - OVERHEAD
        largest = GetEvidenceRequest(RuntimeData=bytes(size))
        async with asyncio.timeout(SECONDS):
            answer = await channel.call(methods.GET_EVIDENCE, largest, deadline=unlimited)
        assert answer.Evidence == str(size).encode()
        larger = GetEvidenceRequest(RuntimeData=bytes(size + 1))
        with pytest.raises(LimitError, match="4194305"):
            await channel.call(methods.GET_EVIDENCE, larger, deadline=unlimited)
        await still_works(channel)


async def test_our_metadata_reaches_them_with_its_duplicates_in_order(
    peer: str, short_tmp: Path
) -> None:
    metadata = (("k1", "b"), ("k2", "c"), ("k1", "a"))
    async with connected(peer, short_tmp) as (_, channel):
        assert await get(channel, "metadata:k1", metadata=metadata) == b"b,a"
        assert await get(channel, "metadata:k2", metadata=metadata) == b"c"
        assert await get(channel, "metadata:k1") == b""


async def test_a_call_that_we_give_up_leaves_the_connection_in_order(
    peer: str, short_tmp: Path
) -> None:
    async with connected(peer, short_tmp) as (server, channel):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                get(channel, "wait", deadline=Deadline.after(SECONDS)), name="given up"
            )
            await server.heard("started", "wait")
            task.cancel()
        assert task.cancelled()
        await still_works(channel)


async def test_our_close_fails_our_calls_and_cancels_their_handlers(
    peer: str, short_tmp: Path
) -> None:
    async with connected(peer, short_tmp) as (server, channel):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_fails(channel), name="waits")
            await server.heard("started", "wait")
            await channel.close()
            await server.heard("cancelled", "wait")
        assert task.done()


async def _fails(channel: TtrpcChannel) -> None:
    with pytest.raises(UnavailableError):
        await get(channel, "wait")


async def test_our_calls_fail_when_their_server_dies_and_the_next_one_finds_its_successor(
    peer: str, short_tmp: Path
) -> None:
    async with connected(peer, short_tmp) as (server, channel):
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(_fails(channel), name=f"call {number}")
            for _ in range(5):
                await server.heard("started", "wait")
            await server.kill()
        async with serving(peer, f"{short_tmp}/s.sock"):
            await still_works(channel)
