"""Clients on the Go and Rust ttRPC libraries call our server."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from guest.protos.aa_pb2 import GetTeeTypeRequest
from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.ttrpc.frame import MAX_DATA_LENGTH
from support.ttrpc_peers import SECONDS, Answer, Caller, caller
from support.ttrpc_world import World, served

pytestmark = [
    pytest.mark.ttrpc_peers,
    pytest.mark.spec("ttrpc", 35),
    pytest.mark.parametrize("peer", ["go", "rust"]),
]

GET: Final = "api.GetResourceService/GetResource"
TEE: Final = "attestation_agent.AttestationAgentService/GetTeeType"
WRAP: Final = "keyprovider.KeyProviderService/WrapKey"
OK: Final = Answer("ok", data=GetResourceResponse(Resource=b"value-of-key-1").SerializeToString())
LARGEST_RESOURCE: Final = 4_194_292
OVERHEAD: Final = 47
"""Bytes of a GetResource Request around a path of 4 MB, without a timeout."""


def ask(path: str) -> GetResourceRequest:
    return GetResourceRequest(ResourcePath=path)


async def seen(condition: list[str], what: str) -> None:
    async with asyncio.timeout(SECONDS):
        while what not in condition:
            await asyncio.sleep(0.01)


async def still_works(client: Caller) -> None:
    assert await client.call(GET, ask("kbs:///default/key/1")) == OK


async def test_they_get_answers_and_empty_answers(peer: str, short_tmp: Path) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        assert await client.call(GET, ask("kbs:///default/key/1")) == OK
        assert await client.call(TEE, GetTeeTypeRequest()) == Answer("ok")
        assert world.started == ["kbs:///default/key/1"]


async def test_they_see_the_code_and_text_of_every_failure(peer: str, short_tmp: Path) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        failed = await client.call(GET, ask("kbs:///fail"))
        assert failed.status == (13, "[CDH] [ERROR]: Get Resource failed")
        unknown = await client.call("nope.Svc/Nope", b"")
        assert unknown.status == (3, "nope.Svc service does not exist")
        unknown = await client.call("api.GetResourceService/Nope", b"")
        assert unknown.status == (12, "Nope method")
        unserved = await client.call(WRAP, b"")
        assert unserved.status == (5, f"/{WRAP} is not supported")
        code, text = (await client.call(GET, b"\x0a\x7f")).status
        assert code == 2
        assert text.startswith("ttrpc err: ")
        await still_works(client)


async def test_they_run_out_of_time_and_our_handler_is_cancelled(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        ended = await client.call(GET, ask("wait"), nano=300_000_000)
        if ended.kind == "status":
            assert ended.status == (4, "timeout")
        else:  # their own clock was first
            theirs = {"go": "context deadline exceeded", "rust": "Receive packet timeout Elapsed"}
            assert theirs[peer] in ended.text
        await seen(world.cancelled, "wait")
        (context,) = world.contexts
        assert context.deadline.remaining() < SECONDS
        await still_works(client)


async def test_a_timeout_that_is_over_ends_their_call_at_once(peer: str, short_tmp: Path) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        ended = await client.call(GET, ask("wait"), nano=-5)
        if peer == "rust":  # whose own clock would wait for centuries
            assert ended.status == (4, "timeout")
        else:
            assert "deadline exceeded" in ended.text
        await still_works(client)


async def test_their_calls_at_once_on_one_connection_are_each_answered_and_a_slow_one_last(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        slow = client.begin(GET, ask("wait"))
        await seen(world.started, "wait")
        calls = [client.begin(GET, ask(f"size:{size}")) for size in range(1, 101)]
        async with asyncio.timeout(SECONDS):
            for size, waiting in enumerate(calls, 1):
                answer = await waiting
                assert GetResourceResponse.FromString(answer.data).Resource == bytes(size)
            assert not slow.done()
            world.release.set()
            assert await slow == OK
        assert len({context.connection for context in world.contexts}) == 1


async def test_the_largest_answer_reaches_them_and_one_byte_more_is_a_status(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        largest = await client.call(GET, ask(f"size:{LARGEST_RESOURCE}"))
        resource = GetResourceResponse.FromString(largest.data).Resource
        assert resource == bytes(LARGEST_RESOURCE)
        larger = await client.call(GET, ask(f"size:{LARGEST_RESOURCE + 1}"))
        text = "message length 4194305 exceed maximum message size of 4194304"
        assert larger.status == (3, text)
        await still_works(client)


async def test_their_largest_request_is_served_and_one_byte_more_is_not_sent(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        largest = "x" * (MAX_DATA_LENGTH - OVERHEAD)
        assert await client.call(GET, ask(largest)) == OK
        assert world.started == [largest]
        larger = await client.call(GET, ask(largest + "x"))
        assert "message length 4194305 exceed maximum message size of 4194304" in larger.text
        await still_works(client)
        assert len(world.started) == 2


async def test_their_metadata_keeps_its_duplicates_in_order(peer: str, short_tmp: Path) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        pairs = (("k1", "b"), ("k2", "c"), ("k1", "a"))
        assert await client.call(GET, ask("kbs:///a/b/c"), metadata=pairs) == OK
        (context,) = world.contexts
        assert sorted(key for key, _ in context.metadata) == ["k1", "k1", "k2"]
        assert [value for key, value in context.metadata if key == "k1"] == ["b", "a"]


async def test_a_client_that_dies_has_its_handlers_cancelled_and_another_is_served(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp) as world:
        async with caller(peer, world.path) as client, caller(peer, world.path) as other:
            client.begin(GET, ask("wait"))
            await seen(world.started, "wait")
            client.kill()
            await seen(world.cancelled, "wait")
            await still_works(other)


async def test_a_call_under_way_is_answered_while_our_server_stops(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp, grace=SECONDS) as world:
        async with asyncio.TaskGroup() as group, caller(peer, world.path) as client:
            slow = client.begin(GET, ask("wait"))
            await seen(world.started, "wait")
            stopping = group.create_task(stop(world), name="stop")
            async with asyncio.timeout(SECONDS):
                assert await slow == OK
            await stopping


async def stop(world: World) -> None:
    asyncio.get_running_loop().call_later(0.2, world.release.set)
    await world.server.drain(SECONDS)


async def test_their_calls_fail_and_do_not_hang_when_our_server_is_gone(
    peer: str, short_tmp: Path
) -> None:
    async with served(short_tmp) as world, caller(peer, world.path) as client:
        calls = [client.begin(GET, ask("wait")) for _ in range(5)]
        await seen(world.started, "wait")
        await world.server.drain(0.1)
        async with asyncio.timeout(SECONDS):
            for waiting in calls:
                assert (await waiting).kind in {"error", "status"}
        assert (await client.call(GET, ask("kbs:///a/b/c"))).kind == "error"
