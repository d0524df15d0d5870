"""A point in time by which something must be done. The one reader of the boot clock.

Durations count on CLOCK_BOOTTIME, which a change of the wall clock does not move and which runs
on while the machine is suspended.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self

from guest.errors import DeadlineError

ANSWER_RESERVE: Final = 0.5
"""Seconds kept back from an inner call's deadline, so that the answer still gets out."""


def boot_seconds() -> float:
    """Seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on CLOCK_BOOTTIME.

    Attributes:
        at: seconds since boot; infinite for a wait that is bounded by its progress instead.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The point `seconds` from now; zero or negative is already over."""
        return cls(boot_seconds() + seconds)

    @classmethod
    def unlimited(cls) -> Self:
        """No total: only for work that is bounded by a limit on each step, as a pull is."""
        return cls(math.inf)

    def remaining(self) -> float:
        """Seconds left, never negative; may be infinite."""
        return max(0.0, self.at - boot_seconds())

    def is_over(self) -> bool:
        """Whether the point has passed."""
        return boot_seconds() >= self.at

    def within(self, seconds: float) -> "Deadline":
        """This deadline or `seconds` from now, whichever is earlier: the limit of one step."""
        return Deadline(min(self.at, boot_seconds() + seconds))

    def for_inner_call(self) -> "Deadline":
        """What an inner call gets: this less the time that the answer needs."""
        return Deadline(self.at - ANSWER_RESERVE)

    @asynccontextmanager
    async def limit(self, what: str) -> AsyncIterator[None]:
        """Bound the block; `what` names the wait in the error.

        Raises:
            DeadlineError: the block was not finished in time and was cancelled.
        """
        left = self.remaining()
        try:
            async with asyncio.timeout(None if math.isinf(left) else left) as scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise DeadlineError(f"no time left for {what}") from error
