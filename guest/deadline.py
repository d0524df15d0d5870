"""A point in time by which something must be done. The one reader of the boot clock.

Durations count on CLOCK_BOOTTIME, which a change of the wall clock does not move and which runs
on while the machine is suspended.
"""

import asyncio
import math
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

import msgspec

from guest.errors import DeadlineError

ANSWER_RESERVE: Final = 0.5
"""Seconds kept back from an inner call's deadline, so that the answer still gets out."""


def boot_seconds() -> float:
    """Seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline(msgspec.Struct, frozen=True):
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

    def limit(self, what: str) -> AbstractAsyncContextManager[None]:
        """Bound the block; `what` names the wait in the error.

        Raises:
            DeadlineError: the block was not finished in time and was cancelled.
        """
        return _Limit(self, what)


class _Limit:
    """A bounded block: `asyncio.timeout` with our error, without a generator around each wait."""

    __slots__ = ("_deadline", "_scope", "_what")

    def __init__(self, deadline: Deadline, what: str) -> None:
        self._deadline = deadline
        self._what = what

    async def __aenter__(self) -> None:
        left = self._deadline.remaining()
        self._scope = asyncio.timeout(None if math.isinf(left) else left)
        await self._scope.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        late = error
        try:
            await self._scope.__aexit__(kind, error, traceback)
        except TimeoutError as expired:
            late = expired
        if isinstance(late, TimeoutError) and self._scope.expired():
            raise DeadlineError(f"no time left for {self._what}") from late
