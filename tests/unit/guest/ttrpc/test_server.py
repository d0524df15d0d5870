"""What the server answers to raw frames."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Final

import pytest

from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.ttrpc.connection import Connection, Role
from guest.ttrpc.envelope import encode_request
from support.transports import eventually
from support.ttrpc_wire import Frame, request, success, wire
from support.ttrpc_world import served

FILE: Final = Path(__file__).parents[3] / "vectors" / "ttrpc" / "frames.json"
HEX: Final = {one["name"]: one["hex"] for one in json.loads(FILE.read_text())["frames"]}
LIMIT_TEXT: Final = "message length 4194305 exceed maximum message size of 4194304"


def vector(name: str) -> bytes:
    return bytes.fromhex(HEX[name])


ANSWERS: Final = (
    (vector("request GetResource id 1, 50 s"), "response Resource, Rust form"),
    (
        request(
            1, service="attestation_agent.AttestationAgentService", method="GetTeeType", payload=b""
        ),
        "empty success, Rust form",
    ),
    (request(1, "kbs:///fail"), "error 13 Get Resource failed"),
    (request(3, service="nope.Svc"), "unknown service nope.Svc"),
    (request(5, method="Nope"), "unknown method Nope"),
    (request(1, "wait", timeout=1), "timeout"),
    (
        request(1, service="keyprovider.KeyProviderService", method="WrapKey"),
        "not implemented WrapKey",
    ),
    (request(10), "even id 10"),
    (Frame(37, 1, 0, bytes(4194305)), "oversize 4194305 on id 37"),
)


@pytest.mark.spec("ttrpc", 1)
async def test_requests_and_answers_are_the_published_ones_byte_for_byte(short_tmp: Path) -> None:
    payload = GetResourceRequest(ResourcePath="kbs:///default/key/1").SerializeToString()
    target = ("api.GetResourceService", "GetResource", payload)
    fifty = 50_000_000_000
    client = Connection(Role.CLIENT)
    first = encode_request(*target, timeout=fifty)
    assert client.open_stream(first)[1] == vector("request GetResource id 1, 50 s")
    second = encode_request(*target)
    assert client.open_stream(second)[1] == vector("request GetResource id 3, no timeout")
    third = encode_request(*target, timeout=fifty, metadata=(("K1", "a"), ("k1", "b")))
    name = "request GetResource id 1, 50 s, metadata k1=a k1=b"
    assert Connection(Role.CLIENT).open_stream(third)[1] == vector(name)
    async with served(short_tmp) as world, wire(world.path) as peer:
        for asked, answer in ANSWERS:
            assert (await peer.ask(asked)).encode() == vector(answer), answer


@pytest.mark.spec("ttrpc", 3, 4)
async def test_a_frame_may_arrive_in_any_pieces_and_two_in_one(short_tmp: Path) -> None:
    frame = request(1).encode()
    async with served(short_tmp) as world, wire(world.path) as peer:
        for cut in range(1, len(frame)):
            await peer.send(frame[:cut])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (await peer.ask(frame[cut:])).encode() == vector("response Resource, Rust form")
        await peer.send(request(1), request(3))
        assert {(await peer.receive()).stream_id, (await peer.receive()).stream_id} == {1, 3}


@pytest.mark.spec("ttrpc", 5)
async def test_a_frame_of_the_limit_is_accepted_and_one_byte_more_refused(
    short_tmp: Path,
) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        body = request(1, "x" * 4194304).data
        path = "x" * (4194304 - (len(body) - 4194304))
        exact = request(1, path)
        assert len(exact.data) == 4194304
        assert (await peer.ask(exact)).status == (0, "")
        too_long = request(37, path + "x")
        assert len(too_long.data) == 4194305
        assert (await peer.ask(too_long)).encode() == vector("oversize 4194305 on id 37")
        assert (await peer.ask(request(3))).status == (0, "")


@pytest.mark.spec("ttrpc", 6)
async def test_lost_framing_closes_the_connection_at_once(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        await peer.send(b"\xff\xff\xff\xff\x00\x00\x00\x01\x01\x00")
        assert await peer.at_end()
        async with wire(world.path) as other:
            assert (await other.ask(request(1))).status == (0, "")


@pytest.mark.spec("ttrpc", 7, 8)
async def test_a_reply_over_the_limit_is_an_error_and_the_connection_lives(
    short_tmp: Path,
) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        largest = await peer.ask(request(1, "size:4194292"))
        assert len(GetResourceResponse.FromString(largest.response.payload).Resource) == 4194292
        assert (await peer.ask(request(3, "size:4194293"))).status == (3, LIMIT_TEXT)
        assert (await peer.ask(request(5))).status == (0, "")


@pytest.mark.spec("ttrpc", 9)
async def test_a_fast_call_overtakes_a_slow_one(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        assert (await peer.ask(request(1, "wait"), request(3))).stream_id == 3
        world.release.set()
        assert (await peer.receive()).stream_id == 1


@pytest.mark.spec("ttrpc", 10)
async def test_a_thousand_calls_at_once_are_all_answered_once(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        ids = range(1, 2001, 2)
        await peer.send(*(request(stream_id) for stream_id in ids))
        seen = [(await peer.receive()).stream_id for _ in ids]
        assert sorted(seen) == list(ids)
        await peer.send(request(2001))
        assert (await peer.receive()).stream_id == 2001


@pytest.mark.spec("ttrpc", 12)
@pytest.mark.spec("protos", 15)
async def test_what_cannot_be_decoded_has_a_code_of_its_own(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        code, text = (await peer.ask(Frame(1, 1, 0, b"\x0a\xff"))).status
        assert (code, bool(text)) == (3, True)
        code, text = (await peer.ask(request(3, payload=b"\x0a\xff"))).status
        assert code == 2
        assert text.startswith("ttrpc err: ")
        not_utf8 = await peer.ask(request(5, payload=b"\x0a\x02\xc3\x28"))
        assert not_utf8.status[0] == 2
        assert not_utf8.status[1].startswith("ttrpc err: ")
        assert (await peer.ask(request(7))).status == (0, "")


@pytest.mark.spec("ttrpc", 11)
async def test_unknown_and_unimplemented_have_exact_codes_and_texts(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        asked = request(1, service="nope.Svc")
        assert (await peer.ask(asked)).status == (3, "nope.Svc service does not exist")
        assert (await peer.ask(request(3, method="Nope"))).status == (12, "Nope method")
        asked = request(5, service="keyprovider.KeyProviderService", method="WrapKey")
        text = "/keyprovider.KeyProviderService/WrapKey is not supported"
        assert (await peer.ask(asked)).status == (5, text)


@pytest.mark.spec("ttrpc", 13)
async def test_a_request_of_no_bytes_asks_for_a_service_without_a_name(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        assert (await peer.ask(Frame(1, 1, 0, b""))).status == (3, " service does not exist")


@pytest.mark.spec("ttrpc", 14)
async def test_even_ids_are_refused_on_themselves(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        for stream_id in (0, 2, 4294967294):
            answer = await peer.ask(request(stream_id))
            assert (answer.stream_id, answer.status) == (stream_id, (3, "stream id must be odd"))


@pytest.mark.spec("ttrpc", 15)
async def test_reused_lower_and_highest_ids_are_served(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        for stream_id in (9, 9, 3, 4294967295, 1):
            answer = await peer.ask(request(stream_id))
            assert (answer.stream_id, answer.status) == (stream_id, (0, ""))


@pytest.mark.spec("ttrpc", 16)
async def test_an_active_id_is_refused_and_the_first_call_unaffected(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        answer = await peer.ask(request(1, "wait"), request(1))
        assert (answer.stream_id, answer.status) == (1, (3, "stream id already in use"))
        world.release.set()
        assert (await peer.receive()).encode() == vector("response Resource, Rust form")


@pytest.mark.spec("ttrpc", 17, 18, 19)
async def test_stray_frames_and_odd_flags_do_no_harm(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        answer = await peer.ask(Frame(21, 3, 0, b"x"))
        assert (answer.stream_id, answer.status) == (21, (3, "Stream is no longer active"))
        await peer.send(success(5), Frame(7, 9, 0, b"x"), Frame(2, 0, 0, b""))
        answer = await peer.ask(request(9, flags=7))
        assert (answer.stream_id, answer.status) == (9, (0, ""))


@pytest.mark.spec("ttrpc", 20)
async def test_a_timeout_is_answered_in_time_and_cancels_the_handler(short_tmp: Path) -> None:
    best = 1.0
    async with served(short_tmp) as world, wire(world.path) as peer:
        for attempt in range(3):  # the machine may be busy, once
            started = time.monotonic()
            answer = await peer.ask(request(1, "wait", timeout=300_000_000))
            best = min(best, time.monotonic() - started)
            assert answer.encode() == vector("timeout")
            await eventually(lambda n=attempt: len(world.cancelled) == n + 1)  # type: ignore[misc]  # default binds n
        assert 0.3 <= best < 0.35


@pytest.mark.spec("ttrpc", 21)
async def test_a_negative_timeout_is_over_and_zero_is_none(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        assert (await peer.ask(request(1, timeout=-5))).encode() == vector("timeout")
        assert world.started == []
        assert (await peer.ask(request(3, timeout=0))).status == (0, "")
        assert 55 < world.contexts[0].deadline.remaining() <= 60
        assert (await peer.ask(request(5, timeout=2**63 - 1))).status == (0, "")


@pytest.mark.spec("ttrpc", 22)
async def test_metadata_keeps_duplicates_in_order(short_tmp: Path) -> None:
    async with served(short_tmp) as world, wire(world.path) as peer:
        await peer.ask(vector("request GetResource id 1, 50 s, metadata k1=a k1=b"))
        assert world.contexts[0].metadata == (("k1", "a"), ("k1", "b"))
        assert world.contexts[0].peer == f"uid={os.getuid()} pid={os.getpid()}"
