"""Trying again: growing waits with jitter, never past a deadline."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from guest.deadline import Deadline
from guest.errors import GuestError

T = TypeVar("T")


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait between attempts.

    Attributes:
        first: seconds before the second attempt, before jitter.
        most: seconds that a wait never exceeds.
        factor: by which each wait is longer than the one before.
        jitter: part of a wait that chance may take off, 0 to 1; it keeps guests that failed
            together from coming back together.
        attempts: attempts in all, the first included.
    """

    first: float = 0.25
    most: float = 4.0
    factor: float = 2.0
    jitter: float = 0.5
    attempts: int = 5

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the attempt of this number, counted from 1."""
        longest = min(self.most, self.first * self.factor ** (attempt - 1))
        return longest * (1 - self.jitter * random.random())  # noqa: S311  # not a secret

    async def pause(self, attempt: int, deadline: Deadline) -> bool:
        """Wait after a failed attempt.

        Returns:
            False, at once, if no further attempt is left or the wait would pass the deadline.
        """
        if attempt >= self.attempts:
            return False
        delay = self.delay(attempt)
        if delay >= deadline.remaining():
            return False
        await asyncio.sleep(delay)
        return True


async def retry(
    operation: Callable[[], Awaitable[T]],
    *,
    deadline: Deadline,
    is_transient: Callable[[GuestError], bool],
    backoff: Backoff,
) -> T:
    """Call until it succeeds, fails for good, or attempts or time run out.

    Args:
        operation: one attempt; bounds itself by the same deadline.
        deadline: no wait begins that would end after it.
        is_transient: whether another attempt may go better.
        backoff: waits and the number of attempts.

    Raises:
        GuestError: the last attempt's error.
    """
    attempt = 1
    while True:
        try:
            return await operation()
        except GuestError as error:
            if not is_transient(error) or not await backoff.pause(attempt, deadline):
                raise
        attempt += 1
