"""guest/single_flight.py: one call for everybody, and nobody disturbs another."""

import asyncio

import pytest

from guest.errors import PeerError
from guest.single_flight import SingleFlight


class _Call:
    """A call that ends when it is told, and counts."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.calls = 0
        self.cancelled = False
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.calls += 1
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.calls


async def test_a_thousand_callers_share_one_call_and_the_next_begins_another() -> None:
    flights: SingleFlight[int] = SingleFlight()
    call = _Call()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(flights.run("k", call)) for _ in range(1000)]
        await call.started.wait()
        call.go.set()
    assert {task.result() for task in tasks} == {1}
    assert await flights.run("k", call) == 2


async def test_other_keys_do_not_wait() -> None:
    flights: SingleFlight[int] = SingleFlight()
    slow, quick = _Call(), _Call()
    quick.go.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(flights.run("slow", slow))
        await slow.started.wait()
        assert await flights.run("quick", quick) == 1
        slow.go.set()


async def test_an_error_reaches_everybody() -> None:
    flights: SingleFlight[int] = SingleFlight()
    call = _Call()
    call.error = PeerError("no")

    async def wait() -> str:
        with pytest.raises(PeerError) as caught:
            await flights.run("k", call)
        return str(caught.value)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait()) for _ in range(5)]
        await call.started.wait()
        call.go.set()
    assert {task.result() for task in tasks} == {"no"}
    assert call.calls == 1


async def test_a_cancelled_caller_even_the_first_disturbs_no_other() -> None:
    flights: SingleFlight[int] = SingleFlight()
    call = _Call()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(flights.run("k", call))
        await call.started.wait()
        second = group.create_task(flights.run("k", call))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        call.go.set()
    assert first.cancelled()
    assert second.result() == 1
    assert not call.cancelled


async def test_the_last_caller_to_leave_ends_the_call() -> None:
    flights: SingleFlight[int] = SingleFlight()
    call = _Call()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await flights.run("k", call)
    assert call.cancelled
    call.go.set()
    assert await flights.run("k", call) == 2
