"""A client's end of one ttRPC connection: requests out, replies to those who wait.

Source: docs/spec/ttrpc.md 2.3, 6.3, 7.
"""

import asyncio
import logging
from typing import Final, cast

from guest.errors import GuestError, LimitError, PeerError, UnavailableError
from guest.ttrpc.connection import Connection, FramingLost, ResponseReceived, Role, StreamFailed

READ_SIZE: Final = 64 * 1024
"""Bytes that are read at a time."""

WRITE_HIGH_WATER: Final = 256 * 1024
"""Bytes of unsent requests from which on new calls wait."""

EVENTS_PER_TURN: Final = 64
"""Frames that are handled before others get the loop."""

log = logging.getLogger(__name__)

Waiting = asyncio.Future[bytes]


class Link(asyncio.BufferedProtocol):
    """One connection. It is over when the server closes it; a channel then makes another."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._connection = Connection(Role.CLIENT)
        self._incoming = memoryview(bytearray(READ_SIZE))
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, Waiting] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_retired = False
        self._is_turn_over = False

    @property
    def is_usable(self) -> bool:
        """Whether new calls may start here."""
        transport = self._transport
        usable = transport is not None and not transport.is_closing() and not self._is_retired
        return usable and not self._connection.is_exhausted

    @property
    def is_writable(self) -> bool:
        """Whether the server has taken most of what was sent."""
        return self._writable.is_set()

    @property
    def pending(self) -> int:
        """How many calls wait for a reply."""
        return len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def connection_lost(self, error: Exception | None) -> None:
        """All calls fail."""
        self._transport = None
        reason = f": {error}" if error is not None else ""
        self._fail_all(UnavailableError(f"connection to {self._where} was closed{reason}"))

    def pause_writing(self) -> None:
        """New calls wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """New calls may be sent."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts what it reads: always the same place, which saves allocations."""
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        """Give replies to those who wait for them."""
        self._connection.feed(self._incoming[:nbytes])
        if not self._is_turn_over:
            self._take_events()

    def _take_events(self) -> None:
        self._is_turn_over = False
        for _ in range(EVENTS_PER_TURN):
            event = self._connection.next_event()
            match event:
                case None:
                    return
                case ResponseReceived():
                    self._resolve(event.stream_id, event.data)
                case StreamFailed():
                    kind = LimitError if event.is_oversize else PeerError
                    self._resolve(event.stream_id, kind(event.message))
                case FramingLost():
                    self._fail_all(PeerError(f"{self._where} sent what is no frame"))
                    self.abort()
                    return
                case _:
                    raise AssertionError(f"{type(event).__name__} at a client without streams")
        self._is_turn_over = True
        self._loop.call_soon(self._take_events)

    def _resolve(self, stream_id: int, result: bytes | GuestError) -> None:
        waiting = self._waiting.pop(stream_id, None)
        if waiting is not None and not waiting.done():
            if isinstance(result, GuestError):
                waiting.set_exception(result)
            else:
                waiting.set_result(result)
        if self._is_retired:
            self._close_if_idle()

    def _fail_all(self, error: GuestError) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.done():
                one.set_exception(error)
        self._writable.set()

    async def writable(self) -> None:
        """Wait until the server has taken most of what was sent, or the link is over."""
        await self._writable.wait()

    def send(self, request: bytes) -> tuple[int, Waiting]:
        """Write one Request; no other can come between its id and its bytes.

        Raises:
            LimitError: it is too long; nothing was sent.
        """
        assert self._transport is not None
        stream_id, frame = self._connection.open_stream(request)
        waiting: Waiting = self._loop.create_future()
        self._waiting[stream_id] = waiting
        self._transport.write(frame)
        return stream_id, waiting

    def forget(self, stream_id: int) -> None:
        """Nobody waits for this reply any more."""
        self._connection.forget(stream_id)
        self._waiting.pop(stream_id, None)
        if self._is_retired:
            self._close_if_idle()

    def retire(self) -> None:
        """Take no new calls; close when the last reply is here, never before."""
        self._is_retired = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._waiting and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
