"""A number of bytes that all connections of a server share.

Source: CONTRIBUTING.md 5; docs/spec/ttrpc.md 9.
"""

import asyncio
from collections import deque
from collections.abc import Callable

Waiter = Callable[[], None]
"""Told once that it is worth trying again."""


class Budget:
    """Bytes that may be held at a time; who finds none left waits, first come, first served."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._waiters: deque[tuple[int, Waiter]] = deque()

    @property
    def left(self) -> int:
        """Bytes that nobody holds."""
        return self._left

    def take(self, count: int) -> bool:
        """Hold `count` bytes, unless there are fewer or others wait for theirs."""
        if self._waiters or count > self._left:
            return False
        self._left -= count
        return True

    def wait(self, count: int, waiter: Waiter) -> None:
        """Get in line; the bytes are held already when `waiter` is called."""
        self._waiters.append((count, waiter))

    async def hold(self, count: int) -> None:
        """Hold `count` bytes when it is one's turn; the caller's deadline bounds the wait."""
        if self.take(count):
            return
        turn = asyncio.Event()
        self.wait(count, turn.set)
        try:
            await turn.wait()
        except asyncio.CancelledError:
            if turn.is_set():
                self.give(count)
            else:
                self.withdraw(turn.set)
            raise

    def withdraw(self, waiter: Waiter) -> None:
        """Leave the line."""
        self._waiters = deque(entry for entry in self._waiters if entry[1] != waiter)
        self._serve()

    def give(self, count: int) -> None:
        """Hold `count` bytes no more."""
        self._left += count
        self._serve()

    def _serve(self) -> None:
        while self._waiters and self._waiters[0][0] <= self._left:
            count, waiter = self._waiters.popleft()
            self._left -= count
            waiter()
