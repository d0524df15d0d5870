"""Downloads over a network that does not hold: cuts, refusals, silence, a registry that is busy."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DeadlineError, GuestError, UnavailableError
from guest.http import HttpClient
from guest_simulator.faults import Fault
from guest_simulator.registry.server import Registry
from image_pull.manifest import Descriptor
from image_pull.reference import ImageReference
from image_pull.registry import client as client_module
from image_pull.registry.client import RegistryClient
from image_pull.registry.transport import Transport, pause, wanted_pause

BLOBS = "/blobs/"


@asynccontextmanager
async def client_of(registry: Registry) -> AsyncIterator[RegistryClient]:
    http = HttpClient(user_agent="test")
    reference = ImageReference.parse(f"{registry.host}/demo/app:v1")
    try:
        yield RegistryClient(Transport(http), reference, "http", None)
    finally:
        await http.close()


def blob_in(registry: Registry, data: bytes) -> Descriptor:
    registry.put_blob("demo/app", data)
    return Descriptor(
        media_type="application/octet-stream",
        digest=HashAlgorithm.SHA256.of(data),
        size=len(data),
        annotations={},
    )


async def fetched(client: RegistryClient, descriptor: Descriptor, seconds: float = 50) -> bytes:
    chunks = client.blob(descriptor, Deadline.after(seconds))
    return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("seed", range(2))
async def test_a_registry_that_cuts_every_connection_costs_a_tenth_more_at_most(seed: int) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(48 << 20)
    async with Registry() as registry, client_of(registry) as client:
        descriptor = blob_in(registry, data)
        for number in range(200):
            cut = chance.randrange(1 << 20, 4 << 20)
            registry.faults.add(Fault(path=BLOBS, cut_after=cut, skip=number, times=1))
        assert await fetched(client, descriptor) == data
        requests = [each for each in registry.requests if BLOBS in each.path]
        assert len(requests) > 16
        assert sum(each.sent for each in requests) <= 1.1 * len(data)
        assert all("range" in each.headers for each in requests[1:])


async def test_a_registry_that_gives_a_little_at_a_time_is_left_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("image_pull.registry.transport.FIRST_PAUSE", 0.001)
    async with Registry() as registry, client_of(registry) as client:
        descriptor = blob_in(registry, bytes(100_000))
        registry.faults.add(Fault(path=BLOBS, cut_after=10))
        with pytest.raises(UnavailableError):
            await fetched(client, descriptor)
        asked = sum(BLOBS in each.path for each in registry.requests)
        assert asked == client_module.MAX_RESUMES + 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path=BLOBS, drop=True, times=2),
        Fault(path=BLOBS, stall_after=10, times=1),
        *(Fault(path=BLOBS, status=status, times=2) for status in (408, 429, 500, 502, 503, 504)),
    ],
    ids=["reset", "silent", "408", "429", "500", "502", "503", "504"],
)
async def test_a_blob_is_asked_for_again(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "STALL", 2.0)
    data = random.Random(1).randbytes(50_000)
    async with Registry() as registry, client_of(registry) as client:
        descriptor = blob_in(registry, data)
        armed = registry.faults.add(fault)
        assert await fetched(client, descriptor) == data
        assert armed.hits == fault.times


async def test_a_registry_that_is_away_for_a_moment_is_asked_again() -> None:
    data = random.Random(2).randbytes(50_000)
    async with Registry() as registry, client_of(registry) as client:
        descriptor = blob_in(registry, data)
        await registry.__aexit__(None, None, None)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetched(client, descriptor))
            await asyncio.sleep(0.05)
            assert not task.done()
            await registry.__aenter__()
        assert task.result() == data


@pytest.mark.parametrize("path", ["/manifests/", BLOBS])
async def test_a_registry_that_says_when_is_not_asked_before(path: str) -> None:
    data = b"x" * 1000
    async with Registry() as registry, client_of(registry) as client:
        descriptor = blob_in(registry, data)
        registry.put_manifest("demo/app", "v1", "application/json", b"{}")
        registry.faults.add(Fault(path=path, status=429, headers={"Retry-After": "1"}, times=1))
        started = time.monotonic()
        if path == BLOBS:
            await fetched(client, descriptor)
        else:
            await client.manifest("v1", Deadline.after(50))
        assert time.monotonic() - started >= 1.0
        assert sum(path in each.path for each in registry.requests) == 2


async def test_a_registry_that_wants_more_time_than_there_is_ends_the_pull_at_once() -> None:
    async with Registry() as registry, client_of(registry) as client:
        descriptor = blob_in(registry, b"x" * 1000)
        registry.faults.add(Fault(path=BLOBS, status=503, headers={"Retry-After": "30"}))
        started = time.monotonic()
        with pytest.raises(GuestError):
            await fetched(client, descriptor, seconds=20)
        assert time.monotonic() - started < 15


async def test_a_time_to_come_back_may_be_seconds_or_a_date() -> None:
    now = 1_700_000_000.0
    assert wanted_pause("7", now) == 7
    assert wanted_pause("Tue, 14 Nov 2023 22:13:30 GMT", now) == 10
    assert wanted_pause("Tue, 14 Nov 2023 22:13:00 GMT", now) == 0
    assert wanted_pause("99999999999999999999", now) == 50
    for text in (None, "", "-1", "soon", "٣", "Tue, 99 Nov 2023 22:13:30 GMT"):
        assert wanted_pause(text, now) == 0
    with pytest.raises(DeadlineError):
        await pause(0, "Fri, 14 Nov 2099 22:13:30 GMT", Deadline.after(5))
