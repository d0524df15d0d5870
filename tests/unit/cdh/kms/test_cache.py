"""Reads share a request; what is kept is bounded, leaves in time, and is never a failure."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from cdh.config import ResourceCacheConfig
from cdh.kms.cache import ResourceCache, SharedReads
from guest.deadline import Deadline
from guest.errors import ConfigError, DeadlineError, NotFoundError, UnavailableError
from guest.resource_uri import ResourceUri
from guest.secret import Secret

URI = "kbs:///a/b/c"


class Source:
    """Gives the number of its calls, 4 bytes, once its gate is open."""

    def __init__(self) -> None:
        self.calls = 0
        self.closed = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        self.calls += 1
        async with deadline.limit("the source"):
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Secret(b"%04d" % self.calls)

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        self.closed += 1


def reads(source: Source, **config: object) -> tuple[SharedReads, ResourceCache]:
    cache = ResourceCache(msgspec.convert(config, ResourceCacheConfig))
    return SharedReads(source, cache), cache


async def get(shared: SharedReads, uri: str = URI, seconds: float = 20) -> bytes:
    return (await shared.fetch(ResourceUri.parse(uri), Deadline.after(seconds))).reveal()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_nothing_is_kept_by_default() -> None:
    source = Source()
    shared, cache = reads(source)
    assert [await get(shared), await get(shared)] == [b"0001", b"0002"]
    assert len(cache) == 0


async def test_callers_at_one_time_share_a_request_and_each_gets_a_copy() -> None:
    source = Source()
    source.gate.clear()
    shared, _ = reads(source)
    uris = (URI, "kbs://host:1/a/b/c")
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                shared.fetch(ResourceUri.parse(uris[number % 2]), Deadline.after(20)), name="read"
            )
            for number in range(100)
        ]
        await until(lambda: source.calls > 0)
        source.gate.set()
    first = tasks[0].result()
    first.wipe()
    assert source.calls == 1
    assert {task.result().reveal() for task in tasks[1:]} == {b"0001"}


async def test_what_is_kept_is_given_until_its_time_is_over() -> None:
    source = Source()
    shared, cache = reads(source, seconds=0.2)
    first = await shared.fetch(ResourceUri.parse(URI), Deadline.after(20))
    first.wipe()
    assert await get(shared) == b"0001"
    (kept,) = cache._kept.values()
    await until(lambda: len(cache) == 0)
    with pytest.raises(ValueError, match="wiped"):
        kept.value.reveal()
    assert await get(shared) == b"0002"


async def test_a_lifetime_of_its_own_beats_the_common_one() -> None:
    source = Source()
    query = "kbs+plugin:///a/b/c?x=1"
    shared, cache = reads(source, seconds=60, lifetimes={URI: 0, query: 60})
    for uri in (URI, query, "kbs+plugin:///a/b/c?x=2", "kbs:///a/b/c?x=1", "kbs:///a/b/d"):
        await get(shared, uri)
    before = source.calls
    await get(shared, query)
    await get(shared, "kbs:///a/b/d")
    assert source.calls == before
    assert len(cache) == 2
    await shared.close()
    assert (len(cache), source.closed) == (0, 1)


@pytest.mark.parametrize("bound", [{"max_entries": 3}, {"max_bytes": 12}])
async def test_the_one_used_longest_ago_leaves_first(bound: dict[str, int]) -> None:
    source = Source()
    shared, cache = reads(source, seconds=60, **bound)
    for name in "pqr":
        await get(shared, f"kbs:///a/b/{name}")
    assert await get(shared, "kbs:///a/b/p") == b"0001"
    await get(shared, "kbs:///a/b/s")
    assert len(cache) == 3
    assert await get(shared, "kbs:///a/b/p") == b"0001"
    assert await get(shared, "kbs:///a/b/q") == b"0005"


async def test_what_is_larger_than_everything_is_not_kept() -> None:
    source = Source()
    shared, cache = reads(source, seconds=60, max_bytes=3)
    await get(shared)
    assert len(cache) == 0


async def test_a_failure_is_shared_and_never_kept() -> None:
    source = Source()
    shared, cache = reads(source, seconds=60)
    source.failure = NotFoundError("absent")
    for _ in range(2):
        with pytest.raises(NotFoundError, match="absent"):
            await get(shared)
    assert (source.calls, len(cache)) == (2, 0)
    source.failure = None
    assert await get(shared) == b"0003"


@pytest.mark.parametrize("failure", [None, UnavailableError("down")])
async def test_nobody_fails_because_another_had_less_time(failure: Exception | None) -> None:
    source = Source()
    source.gate.clear()
    shared, _ = reads(source)

    async def impatient() -> None:
        with pytest.raises((DeadlineError, UnavailableError)):
            await get(shared, seconds=0.1)
        source.failure = None
        source.gate.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(impatient(), name="impatient")
        await until(lambda: source.calls == 1)
        patient = group.create_task(get(shared), name="patient")
        await asyncio.sleep(0)
        if failure is not None:
            source.failure = failure
            source.gate.set()
    assert patient.result() == b"0002"


async def test_who_has_less_time_does_not_wait_for_the_patient() -> None:
    source = Source()
    source.gate.clear()
    shared, _ = reads(source)
    async with asyncio.TaskGroup() as group:
        patient = group.create_task(get(shared), name="patient")
        await until(lambda: source.calls == 1)
        with pytest.raises(DeadlineError, match="the source"):
            await get(shared, seconds=0.05)
        assert source.calls == 2
        source.gate.set()
    assert patient.result() == b"0002"


def test_a_lifetime_is_for_a_resource() -> None:
    with pytest.raises(ConfigError, match=r"resource_cache\.lifetimes: illegal kbs resource uri"):
        reads(Source(), lifetimes={"http://x": 1})
