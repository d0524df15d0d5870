"""Reads of one resource at one time share a request; on demand, answers are kept for a while.

Nothing is kept by default. What is kept is bounded in number, bytes and time, never written
anywhere, and overwritten when its time is over. Failures are never kept.

Source: docs/spec/confidential-data-hub.md 14, row 1.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

from cdh.config import ResourceCacheConfig
from cdh.kms.base import ResourceClient, parse_resource_uri
from guest.deadline import Deadline, boot_seconds
from guest.errors import (
    ConfigError,
    DeadlineError,
    GuestError,
    InvalidInputError,
    UnavailableError,
    retold,
)
from guest.resource_uri import ResourceUri
from guest.secret import Secret

PATIENCE: Final = 1.0
"""Seconds by which a caller's time may end before that of the request it joins."""


class _Kept(msgspec.Struct, frozen=True):
    value: Secret
    ends: float
    timer: asyncio.TimerHandle


class ResourceCache:
    """Answers by their path at the KBS; the one that was used longest ago leaves first.

    Raises:
        ConfigError: a lifetime is for something that is no resource URI.
    """

    def __init__(self, config: ResourceCacheConfig) -> None:
        self._config = config
        self._lifetimes = _by_path(config.lifetimes)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, uri: ResourceUri) -> Secret | None:
        """A copy of what is kept of a resource."""
        if not self._kept:
            return None
        path = uri.kbs_path()
        kept = self._kept.get(path)
        if kept is None:
            return None
        if boot_seconds() >= kept.ends:  # the timer does not count suspension
            self._drop(path)
            return None
        self._kept.move_to_end(path)
        return Secret(kept.value.reveal())

    def keep(self, uri: ResourceUri, value: Secret) -> None:
        """Keep a copy, if this resource may be kept and is not larger than everything together."""
        seconds = self._lifetime(uri)
        if seconds <= 0 or len(value) > self._config.max_bytes:
            return
        path = uri.kbs_path()
        self._drop(path)
        timer = asyncio.get_running_loop().call_later(seconds, self._drop, path)
        self._kept[path] = _Kept(Secret(value.reveal()), boot_seconds() + seconds, timer)
        self._bytes += len(value)
        while self._bytes > self._config.max_bytes or len(self._kept) > self._config.max_entries:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Drop everything."""
        for path in tuple(self._kept):
            self._drop(path)

    def _lifetime(self, uri: ResourceUri) -> float:
        """Seconds; a plug-in's answer, and one to a query, is kept only where it is named."""
        named = self._lifetimes.get(uri.kbs_path()) if self._lifetimes else None
        if named is not None:
            return named
        is_plain = uri.plugin == "resource" and not uri.query
        return self._config.seconds if is_plain else 0.0

    def _drop(self, path: str) -> None:
        kept = self._kept.pop(path, None)
        if kept is not None:
            kept.timer.cancel()
            self._bytes -= len(kept.value)
            kept.value.wipe()


class _Flight:
    """One request, made by the first caller, and what came of it for those who wait."""

    __slots__ = ("deadline", "done", "outcome")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.done: asyncio.Event | None = None  # made by the first who waits: mostly nobody does
        self.outcome: Secret | GuestError | None = None


class SharedReads:
    """A `ResourceClient` over another: one request for all who wait for the same resource.

    The first caller makes it, in its own time; who waits tries again where that was too short, or
    where that caller left.

    Args:
        source: is asked.
        cache: keeps what it may.
    """

    def __init__(self, source: ResourceClient, cache: ResourceCache) -> None:
        self._source = source
        self._cache = cache
        self._flights: dict[str, _Flight] = {}

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """The resource's bytes, the caller's own.

        Raises:
            GuestError: as the source says.
        """
        path = uri.kbs_path()
        while True:
            kept = self._cache.find(uri)
            if kept is not None:
                return kept
            flight = self._flights.get(path)
            if flight is None:
                return await self._lead(path, uri, deadline)
            if deadline.at < flight.deadline.at - PATIENCE:
                return await self._source.fetch(uri, deadline)
            outcome = await _wait(flight, deadline)
            if outcome is not None:
                return outcome

    async def _lead(self, path: str, uri: ResourceUri, deadline: Deadline) -> Secret:
        flight = self._flights[path] = _Flight(deadline)
        try:
            value = await self._source.fetch(uri, deadline)
            self._cache.keep(uri, value)
            if flight.done is not None:
                flight.outcome = Secret(value.reveal())
            return value
        except GuestError as error:
            flight.outcome = error
            raise
        finally:
            del self._flights[path]
            if flight.done is not None:
                flight.done.set()

    async def run(self, stop: asyncio.Event) -> None:
        """What the source does in the background."""
        await self._source.run(stop)

    async def close(self) -> None:
        """Forget what is kept, close the source."""
        self._cache.clear()
        await self._source.close()


async def _wait(flight: _Flight, deadline: Deadline) -> Secret | None:
    """What came of another caller's request; None where it is worth another one."""
    done = flight.done = flight.done or asyncio.Event()
    async with deadline.limit("the resource"):
        await done.wait()
    outcome = flight.outcome
    if not isinstance(outcome, GuestError):
        return None if outcome is None else Secret(outcome.reveal())
    had_less = flight.deadline.at + PATIENCE < deadline.at
    if isinstance(outcome, DeadlineError) or (isinstance(outcome, UnavailableError) and had_less):
        return None
    raise retold(outcome, str(outcome)) from outcome.__cause__


def _by_path(lifetimes: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for text, seconds in lifetimes.items():
        try:
            found[parse_resource_uri(text).kbs_path()] = seconds
        except InvalidInputError as error:
            raise ConfigError(f"resource_cache.lifetimes: {error}") from error
    return found
