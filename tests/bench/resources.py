"""Secrets: how many attestations many reads cost, and what a warm read costs.

Client and peer run on the event loop that the daemons run on.
"""

import asyncio
import json
import statistics
import time
from contextlib import ExitStack
from typing import Final
from urllib.request import Request, urlopen

import aiohttp
import uvloop

from bench.place import Place, connect, running, short_directory, simulator
from bench.row import Row
from guest.crypto.jose import open_jwe
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos.aa_pb2 import GetTokenRequest
from guest.protos.cdh_pb2 import GetResourceRequest
from guest.protos.methods import GET_RESOURCE, GET_TOKEN
from guest.secret import Secret
from guest.ttrpc.channel import TtrpcChannel

READS: Final = 1000
RESOURCES: Final = 100
CONNECTIONS: Final = 4
WARM_ROUNDS: Final = 20
ROUND_READS: Final = 110
WARMING: Final = 10
"""Reads of a round that are not counted: the other side ran before."""

TOKEN_SECONDS: Final = 5
"""Life of a token in the run that reads across refreshes."""
REFRESHING_SECONDS: Final = 12.0
SECONDS: Final = 60.0
RUNS: Final = 5
LOST: Final = 50
"""Reads of the one resource that never comes."""


def rows() -> list[Row]:
    """Attestations and requests of a cold burst, a warm read, refreshes, a black hole."""
    with short_directory() as directory, ExitStack() as stack:
        world = stack.enter_context(simulator())
        place = Place(directory=directory, kbs=world["kbs"])
        place.write_configs()
        for number in range(RESOURCES):
            _upload(world, f"default/key/{number}", bytes([number]) * 1024)
        aa = stack.enter_context(running(place.aa_command(), directory / "log"))
        connect(place.aa, aa).close()
        result = []
        for measure in (_burst, _warm, _refreshing, _black_hole):
            (directory / "cdh.sock").unlink(missing_ok=True)
            with running(place.cdh_command(), directory / "log") as cdh:
                connect(place.cdh, cdh).close()
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    result += runner.run(measure(place, world))
        return result


def _upload(world: dict[str, str], name: str, value: bytes) -> None:
    with open(world["admin_token"]) as file:
        token = file.read().strip()
    request = Request(
        f"{world['kbs']}/kbs/v0/resource/{name}",
        data=value,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"},
    )
    with urlopen(request, timeout=SECONDS) as answer:
        assert answer.status == 200


def _steer(world: dict[str, str], path: str, body: object | None = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = Request(
        f"{world['kbs']}/_simulator/{path}", data=data, headers={"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=SECONDS) as answer:
        text = answer.read()
    return dict(json.loads(text)) if text else {}


def _attestations(world: dict[str, str]) -> int:
    count = _steer(world, "stats")["attestations"]
    assert isinstance(count, int)
    return count


async def _read(channel: TtrpcChannel, number: int) -> bool:
    request = GetResourceRequest(ResourcePath=f"kbs:///default/key/{number % RESOURCES}")
    try:
        response = await channel.call(GET_RESOURCE, request, deadline=Deadline.after(SECONDS))
    except GuestError:
        return False
    return response.Resource == bytes([number % RESOURCES]) * 1024


async def _burst(place: Place, world: dict[str, str]) -> list[Row]:
    before = _attestations(world)
    channels = [TtrpcChannel(f"unix://{place.cdh}") for _ in range(CONNECTIONS)]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        reads = [
            group.create_task(_read(channels[number % CONNECTIONS], number), name="read")
            for number in range(READS)
        ]
    seconds = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    failed = sum(not read.result() for read in reads)
    if failed:
        raise SystemExit(f"{failed} of {READS} reads failed")
    return [
        Row(
            name=f"attestations for {READS} concurrent reads of {RESOURCES} resources, cold",
            bar=1,
            value=_attestations(world) - before,
            unit="",
            peer=f"upstream attests once per read; all in {seconds:.2f} s",
            kind="exactly",
        ),
        Row(
            name=f"requests to the KBS for these reads of {RESOURCES} resources",
            bar=RESOURCES,
            value=_resource_requests(world),
            unit="",
            peer="one a resource",
            kind="exactly",
        ),
    ]


def _resource_requests(world: dict[str, str]) -> int:
    with urlopen(f"{world['kbs']}/_simulator/requests", timeout=SECONDS) as answer:
        records = json.loads(answer.read())
    return sum(r["method"] == "GET" and "/resource/" in r["path"] for r in records)


async def _black_hole(place: Place, world: dict[str, str]) -> list[Row]:
    """The others' p99 while reads of one resource hang, beside runs in which none does."""
    channel = TtrpcChannel(f"unix://{place.cdh}")
    for number in range(RESOURCES):
        assert await _read(channel, number)
    without, beside = [], []
    for _ in range(RUNS):
        without.append(await _others_p99(channel))
        _steer(world, "faults", {"path": "/key/0$", "stall_after": 0})
        async with asyncio.TaskGroup() as group:
            lost = [group.create_task(_read(channel, 0), name="lost") for _ in range(LOST)]
            await asyncio.sleep(0.1)
            beside.append(await _others_p99(channel))
            for task in lost:
                task.cancel()
        delete = Request(f"{world['kbs']}/_simulator/faults", method="DELETE")
        urlopen(delete, timeout=SECONDS).close()
    await channel.close()
    peer, ours = statistics.median(without), statistics.median(beside)
    return [
        Row(
            name=f"p99 of reads while {LOST} reads of one resource hang, median of {RUNS}",
            bar=1.5,
            value=ours / peer,
            unit="x",
            peer=f"without them {peer * 1e3:.2f} ms; ours {ours * 1e3:.2f} ms",
        )
    ]


async def _others_p99(channel: TtrpcChannel) -> float:
    seconds = []

    async def reader(first: int) -> None:
        for number in range(first, first + READS // CONNECTIONS):
            started = time.perf_counter()
            assert await _read(channel, 1 + number % (RESOURCES - 1))
            seconds.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(reader(number * 20), name="reader")
    return statistics.quantiles(seconds, n=100)[98]


async def _refreshing(place: Place, world: dict[str, str]) -> list[Row]:
    _steer(world, "knobs", {"token_seconds": TOKEN_SECONDS})
    channel = TtrpcChannel(f"unix://{place.cdh}")
    before, failed, number = _attestations(world), 0, 0
    end = time.monotonic() + REFRESHING_SECONDS
    while time.monotonic() < end:
        failed += not await _read(channel, number)
        number += 1
    await channel.close()
    _steer(world, "knobs", {"token_seconds": 300})
    tokens = _attestations(world) - before
    return [
        Row(
            name="failed reads across token refreshes",
            bar=0,
            value=failed,
            unit="",
            peer=f"none; {number:,} reads, {tokens} tokens of {TOKEN_SECONDS} s",
            kind="exactly",
        )
    ]


async def _warm(place: Place, world: dict[str, str]) -> list[Row]:
    """Ours and the peer in turn, so that both see the same machine."""
    _steer(world, "knobs", {"prepare_answers": 1})
    pem, headers = await _token(place)
    key = TeeKey.from_pem(pem)
    url = f"{world['kbs']}/kbs/v0/resource/default/key/1"
    ours: list[float] = []
    parts: list[tuple[float, float]] = []
    channel = TtrpcChannel(f"unix://{place.cdh}")
    async with aiohttp.ClientSession() as session:
        for _ in range(WARM_ROUNDS):
            ours += [await _seconds(channel) for _ in range(ROUND_READS)][WARMING:]
            parts += [await _parts(session, url, headers, key) for _ in range(ROUND_READS)][
                WARMING:
            ]
    await channel.close()
    get, opening = (statistics.median(each) for each in zip(*parts, strict=True))
    middle = statistics.median(ours)
    spread = statistics.quantiles(ours, n=20)
    return [
        Row(
            name="warm GetResource, 1 KiB, p50",
            bar=1.5,
            value=middle / (get + opening),
            unit="x",
            peer=(
                f"aiohttp GET {get * 1e3:.2f} ms + opening {opening * 1e3:.2f} ms; "
                f"ours {middle * 1e3:.2f} ms, "
                f"p5 {spread[0] * 1e3:.2f}, p95 {spread[-1] * 1e3:.2f}"
            ),
        )
    ]


async def _token(place: Place) -> tuple[Secret, dict[str, str]]:
    """The agent's key, as PEM, and the header that goes with it."""
    channel = TtrpcChannel(f"unix://{place.aa}")
    answer = await channel.call(
        GET_TOKEN, GetTokenRequest(TokenType="kbs"), deadline=Deadline.after(SECONDS)
    )
    await channel.close()
    pair = json.loads(answer.Token)
    return Secret(pair["tee_keypair"].encode()), {"Authorization": f"Bearer {pair['token']}"}


async def _seconds(channel: TtrpcChannel) -> float:
    started = time.perf_counter()
    assert await _read(channel, 1)
    return time.perf_counter() - started


async def _parts(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], key: TeeKey
) -> tuple[float, float]:
    """Seconds of a GET, and of opening its answer."""
    started = time.perf_counter()
    async with session.get(url, headers=headers) as response:
        body = await response.read()
    fetched = time.perf_counter()
    open_jwe(body, key)
    return fetched - started, time.perf_counter() - fetched
