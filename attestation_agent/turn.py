"""Taking turns at something that only one may use, first come first served.

Source: docs/spec/attestation-agent.md 7.5 and 7.7; docs/spec/attesters.md 1.5.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Final

from guest.deadline import Deadline
from guest.errors import LimitError

MAX_WAITING: Final = 32
"""Most calls of one connection that wait for one device."""

_CONNECTION: Final[ContextVar[Hashable]] = ContextVar("connection", default=None)


@contextmanager
def on_behalf_of(connection: Hashable) -> Iterator[None]:
    """What the block waits for is shared fairly among connections, and it is this one's."""
    token = _CONNECTION.set(connection)
    try:
        yield
    finally:
        _CONNECTION.reset(token)


class Turns:
    """One at a time, in the order of asking."""

    def __init__(self, what: str) -> None:
        """Nobody has it; `what` names it in errors."""
        self._what = what
        self._lock = asyncio.Lock()

    async def take(self, deadline: Deadline) -> None:
        """Wait for it; whoever returns from here must give it back.

        Raises:
            DeadlineError: it did not become free in time.
        """
        async with deadline.limit(self._what):
            await self._lock.acquire()

    def give_back(self) -> None:
        """Let the next one have it."""
        self._lock.release()

    @asynccontextmanager
    async def held(self, deadline: Deadline) -> AsyncIterator[None]:
        """Have it for the block.

        Raises:
            DeadlineError: it did not become free in time.
        """
        await self.take(deadline)
        try:
            yield
        finally:
            self.give_back()


class FairTurns:
    """One at a time: connections are served in turn, the calls of one in the order of asking."""

    def __init__(self, what: str) -> None:
        """Nobody has it; `what` names it in errors."""
        self._what = what
        self._is_taken = False
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def take(self, deadline: Deadline) -> None:
        """Wait for it; whoever returns from here must give it back.

        Raises:
            LimitError: `MAX_WAITING` calls of this connection wait already.
            DeadlineError: it did not become free in time.
        """
        if not self._is_taken:
            self._is_taken = True
            return
        connection = _CONNECTION.get()
        queue = self._waiting.setdefault(connection, deque())
        if len(queue) >= MAX_WAITING:
            raise LimitError(f"{len(queue)} calls of this connection wait for {self._what} already")
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with deadline.limit(self._what):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it came in the moment in which the caller left
            elif turn in queue:
                queue.remove(turn)
            raise

    def give_back(self) -> None:
        """Let the next connection have it."""
        while self._waiting:
            connection = next(iter(self._waiting))
            queue = self._waiting.pop(connection)
            turn = queue.popleft() if queue else None
            if queue:
                self._waiting[connection] = queue
            if turn is not None and not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    @asynccontextmanager
    async def held(self, deadline: Deadline) -> AsyncIterator[None]:
        """Have it for the block.

        Raises:
            LimitError: too many calls of this connection wait already.
            DeadlineError: it did not become free in time.
        """
        await self.take(deadline)
        try:
            yield
        finally:
            self.give_back()
