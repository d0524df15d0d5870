"""One worker as the puller sees it: bytes in with back-pressure, one outcome out.

Source: docs/ARCHITECTURE.md, decision 6.
"""

import asyncio
import socket
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from guest.deadline import Deadline, boot_seconds
from guest.errors import DeadlineError, DecodeError, UnavailableError
from image_pull.layers.jobs import Exit, FrameKind, FrameReader

BUFFER: Final = 1 << 20
"""Bytes asked of the kernel for what is on its way to a worker; it may give less."""

T = TypeVar("T")

ENDING_SECONDS: Final = 10.0
"""Seconds a killed worker may take to be gone."""


class WorkerChannel:
    """The data socket of one worker.

    Args:
        connection: our end; owned.
        ended: done when the server has seen the worker end.
        kill: has the server kill it.
    """

    def __init__(
        self, connection: socket.socket, ended: Future[Exit], kill: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._ended = ended
        self._kill = kill
        self._frames = FrameReader()
        self._outcome: Future[tuple[FrameKind, bytes]] = self._loop.create_future()
        self._lost: Future[None] = self._loop.create_future()
        self._moved = boot_seconds()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._loop.add_reader(connection, self._receive)

    def _receive(self) -> None:
        try:
            data = self._connection.recv(1 << 18)
            frames = self._frames.feed(data)
        except BlockingIOError:
            return
        except (OSError, DecodeError) as error:
            self._settle(UnavailableError("unpack worker broke its protocol"), error)
            return
        self._moved = boot_seconds()
        for kind, body in frames:
            if kind is not FrameKind.PROGRESS and not self._outcome.done():
                self._outcome.set_result((kind, body))
        if not data:
            self._settle(UnavailableError("unpack worker ended without a report"), None)

    def _settle(self, error: UnavailableError, cause: Exception | None) -> None:
        self._loop.remove_reader(self._connection)
        if not self._outcome.done():
            error.__cause__ = cause
            self._outcome.set_exception(error)
            self._outcome.exception()
            self._lost.set_result(None)

    @asynccontextmanager
    async def while_it_lives(self) -> AsyncIterator[None]:
        """Leave the block at once, whatever it waits for, when the worker dies without a report."""
        scope, inside = asyncio.timeout(None), True

        def leave(_: Future[None]) -> None:
            if inside:
                scope.reschedule(self._loop.time())

        try:
            async with scope:
                self._lost.add_done_callback(leave)
                try:
                    yield
                finally:
                    inside = False
        except TimeoutError:
            if not scope.expired():
                raise

    async def send(self, data: bytes, deadline: Deadline, idle: float) -> bool:
        """Give the worker bytes; false when it does not want any more.

        Raises:
            DeadlineError: `deadline` passed, or the worker did nothing for `idle` seconds.
        """
        view = memoryview(data)
        self._moved = boot_seconds()
        while len(view) and not self._outcome.done():
            try:
                sent = self._connection.send(view)
            except BlockingIOError:
                await self._writable(deadline, idle)
                continue
            except OSError:
                # it ended: the reason comes by the other direction
                return False
            self._moved = boot_seconds()
            view = view[sent:]
        return not self._outcome.done()

    async def _writable(self, deadline: Deadline, idle: float) -> None:
        able: Future[None] = self._loop.create_future()
        self._loop.add_writer(self._connection, _set, able)
        try:
            await self._await(able, deadline, idle)
        finally:
            self._loop.remove_writer(self._connection)

    async def outcome(self, deadline: Deadline, idle: float) -> tuple[FrameKind, bytes]:
        """End the bytes and wait for the worker's last frame.

        Raises:
            UnavailableError: the worker died.
            DeadlineError: `deadline` passed, or the worker did nothing for `idle` seconds.
        """
        with suppress(OSError):  # it may have ended already
            self._connection.shutdown(socket.SHUT_WR)
        self._moved = boot_seconds()
        await self._await(self._outcome, deadline, idle)
        return self._outcome.result()

    async def _await(self, future: Future[T], deadline: Deadline, idle: float) -> None:
        """Wait for a future, the worker's end or its outcome, as long as something moves."""
        while not future.done() and not self._outcome.done():
            left = min(self._moved + idle - boot_seconds(), deadline.remaining())
            if left <= 0:
                raise DeadlineError("no time left for a layer to be unpacked")
            await asyncio.wait(
                (future, self._outcome), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )

    async def end(self) -> Exit | None:
        """Kill the worker if it lives, close the socket, and wait until it is gone.

        Returns:
            How it ended; None when the server did not tell in time.
        """
        if not self._ended.done():
            self._kill()
        if self._connection.fileno() >= 0:
            self._loop.remove_reader(self._connection)
            self._connection.close()
        await asyncio.wait((self._ended,), timeout=ENDING_SECONDS)
        return self._ended.result() if self._ended.done() else None


def _set(able: Future[None]) -> None:
    if not able.done():
        able.set_result(None)
