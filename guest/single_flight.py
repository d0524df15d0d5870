"""Callers who want one thing share one call."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


async def _await(factory: Callable[[], Awaitable[T]]) -> T:
    return await factory()


class SingleFlight(Generic[T]):
    """Runs one call for each key at a time and gives its outcome to everybody who waits.

    The call has a task of its own that lives exactly as long as somebody waits for it: a caller
    that is cancelled, or whose time ran out, disturbs no other, and the last one to leave cancels
    the call and sees it end. No task group is the owner, because a group ends all of its tasks
    when one fails, and because the call outlives the caller that began it.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def run(self, key: Hashable, factory: Callable[[], Awaitable[T]]) -> T:
        """Join the call under way for `key`, or begin one with `factory`.

        The factory bounds itself: it must not use one caller's deadline, since all share it. Each
        caller bounds its own wait.

        Raises:
            GuestError: whatever the call raised, the same for everybody.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(
                asyncio.get_running_loop().create_task(_await(factory), name=f"shared {key}")
            )
            self._flights[key] = flight
            flight.task.add_done_callback(lambda _: self._forget(key, flight))
            flight.task.add_done_callback(_see)
        flight.waiting += 1
        try:
            await asyncio.wait((flight.task,))
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()
                await asyncio.wait((flight.task,))
        return flight.task.result()

    def _forget(self, key: Hashable, flight: "_Flight[T]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _see(task: "asyncio.Task[T]") -> None:
    """Count a failure as seen although everybody who waited was cancelled."""
    if not task.cancelled():
        task.exception()


class _Flight(Generic[T]):
    """One call and the number of callers that wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[T]") -> None:
        self.task = task
        self.waiting = 0
