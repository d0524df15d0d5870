"""One client's connection to a ttRPC server: frames in, calls started, answers out.

Source: docs/spec/ttrpc.md 5, 6.1, 6.2, 7, 9; CONTRIBUTING.md 5.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from google.protobuf.message import DecodeError as ProtobufError

from guest.errors import DecodeError, LimitError
from guest.rpc.budget import Budget
from guest.rpc.calls import Call, Calls, Outcome
from guest.rpc.method import CallContext, Routes
from guest.rpc.server import ServerLimits
from guest.rpc.status import Code, Status, StatusError
from guest.ttrpc import envelope
from guest.ttrpc.connection import (
    Connection,
    Event,
    FramingLost,
    RequestReceived,
    RequestRefused,
    Role,
)

EVENTS_PER_TURN: Final = 64
"""Frames of one connection that are handled before the others get their turn."""

READ_SIZE: Final = 64 * 1024
"""Bytes that are read from one connection before the others get their turn."""

WRITE_HIGH_WATER: Final = 256 * 1024
"""Bytes of unsent answers from which on a connection is not read."""

CHECKS_PER_STALL: Final = 4
"""How often a peer that seems not to read is looked at before it is dropped."""

MAX_TEXT: Final = 200
"""Longest parser text in an answer, in characters."""

_CREDENTIALS: Final = struct.Struct("3i")

log = logging.getLogger(__name__)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end: `uid=0 pid=42`, or an address."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:  # gone already
            return "unknown"
        pid, uid, _gid = _CREDENTIALS.unpack(raw)
        return f"uid={uid} pid={pid}"
    return str(transport.get_extra_info("peername"))


class Session(asyncio.BufferedProtocol):
    """A connection; it lives until the peer is gone and the last handler has ended.

    Attributes:
        peer: who it is with, for logs.
        written_at: when it last answered, on the loop's clock.
    """

    def __init__(
        self,
        routes: Routes,
        calls: Calls,
        budget: Budget,
        limits: ServerLimits,
        on_end: Callable[["Session"], None],
    ) -> None:
        self._routes = routes
        self._calls = calls
        self._budget = budget
        self._limits = limits
        self._on_end = on_end
        self._connection = Connection(Role.SERVER)
        self._incoming = memoryview(bytearray(READ_SIZE))
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._active: dict[Call, int] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._held: int | None = None
        self._wanted: int | None = None
        self._is_pumping_later = False
        self._is_read_paused = False
        self._is_write_paused = False
        self._is_draining = False
        self._is_closing = False
        self._frame_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._stall_checks = 0
        self._stall_size = 0
        self.peer = "unknown"
        self.written_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.peer = peer_of(transport)
        log.debug("connection accepted", extra={"peer": self.peer})

    def connection_lost(self, error: Exception | None) -> None:
        """Drop what is under way, except as its methods say."""
        log.debug("connection closed", extra={"peer": self.peer, "calls": len(self._active)})
        self._transport = None
        self._unsent.clear()
        for timer in (self._frame_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._wanted is not None:
            self._wanted = None
            self._budget.withdraw(self._got_budget)
        self._budget.give(self._held or 0)
        self._held = None
        self._leave_calls()
        self._end_if_over()

    def eof_received(self) -> bool:
        """The peer sends no more, so it gets no more: a half-close is a close."""
        self._leave_calls()
        return False

    def _leave_calls(self) -> None:
        self._unsent.clear()
        for call in tuple(self._active):
            call.leave()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts what it reads: always the same place, which saves allocations."""
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes and handle the frames that they complete."""
        self._connection.feed(self._incoming[:nbytes])
        if self._wanted is None and not self._is_pumping_later:
            self._pump()

    def _pump(self) -> None:
        """Handle frames until there are no more, it is others' turn, or a limit says stop."""
        self._is_pumping_later = False
        for _ in range(EVENTS_PER_TURN):
            if self._transport is None or self._transport.is_closing():
                return
            if self._must_wait() or not self._hold_next():
                self._pause_reading()
                return
            event = self._connection.next_event()
            if event is None:
                self._watch_frame()
                self._resume_reading()
                return
            self._handle(event)
        self._is_pumping_later = True
        self._pause_reading()
        self._loop.call_soon(self._pump)

    def _must_wait(self) -> bool:
        return (
            self._is_draining
            or self._is_write_paused
            or bool(self._unsent)
            or len(self._active) >= self._limits.calls
        )

    def _hold_next(self) -> bool:
        """Have the next frame's bytes counted; if too many are, get in line."""
        length = self._connection.frame_length
        if self._held is not None or length is None:
            return True
        if self._budget.take(length):
            self._held = length
            return True
        self._wanted = length
        self._budget.wait(length, self._got_budget)
        return False

    def _got_budget(self) -> None:
        self._held, self._wanted = self._wanted, None
        self._pump_later()

    def _pump_later(self) -> None:
        if self._wanted is None and not self._is_pumping_later and self._transport is not None:
            self._is_pumping_later = True
            self._loop.call_soon(self._pump)

    def _pause_reading(self) -> None:
        if self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None
        if not self._is_read_paused and self._transport is not None:
            self._is_read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_read_paused and self._transport is not None:
            self._is_read_paused = False
            self._transport.resume_reading()

    def _watch_frame(self) -> None:
        """A frame that counts against everybody's bytes must be complete in time."""
        if self._held is not None and self._frame_timer is None:
            self._frame_timer = self._loop.call_later(
                self._limits.frame, self._drop, "frame not completed in time"
            )

    def _drop(self, why: str) -> None:
        if self._transport is not None:
            log.warning("connection dropped", extra={"peer": self.peer, "reason": why})
            self._transport.abort()

    def _handle(self, event: Event) -> None:
        held, self._held = self._held or 0, None
        if self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None
        match event:
            case RequestReceived():
                self._serve(event, held)
                return
            case RequestRefused():
                status = Status(code=Code.INVALID_ARGUMENT, message=event.message)
                refusal = envelope.encode_failure(status)
                self._write(self._connection.refuse(event.stream_id, refusal))
            case FramingLost():
                log.debug("framing lost", extra={"peer": self.peer})
                if self._transport is not None:
                    self._transport.abort()
            case _:
                raise AssertionError(f"{type(event).__name__} at a server without streams")
        self._budget.give(held)

    def _serve(self, event: RequestReceived, held: int) -> None:
        """Start the call of a Request, or answer at once what is wrong with it."""
        stream_id = event.stream_id
        try:
            asked = envelope.decode_request(event.data)
            bound = self._routes.find(asked.service, asked.method)
            request = bound.method.request.FromString(asked.payload)
        except DecodeError as error:
            self._fail(stream_id, held, Status(code=Code.INVALID_ARGUMENT, message=str(error)))
            return
        except StatusError as error:
            log.debug("call refused", extra={"peer": self.peer, "reason": str(error)[:MAX_TEXT]})
            self._fail(stream_id, held, error.status)
            return
        except ProtobufError as error:
            text = f"ttrpc err: {str(error)[:MAX_TEXT]}"
            self._fail(stream_id, held, Status(code=Code.UNKNOWN, message=text))
            return
        context = CallContext(
            deadline=bound.method.deadline(asked.timeout),
            metadata=asked.metadata,
            peer=self.peer,
            connection=id(self),
        )

        def reply(outcome: Outcome) -> None:
            self._answer(stream_id, outcome)

        def end(call: Call) -> None:
            self._active.pop(call, None)
            self._budget.give(held)
            self._call_ended()

        call = self._calls.start(bound, request, context, reply, end)
        if call.is_running:
            self._active[call] = stream_id

    def _fail(self, stream_id: int, held: int, status: Status) -> None:
        self._budget.give(held)
        self._answer(stream_id, status)

    def _answer(self, stream_id: int, outcome: Outcome) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if isinstance(outcome, Status):
            data = envelope.encode_failure(outcome)
        else:
            data = envelope.encode_success(outcome.SerializeToString())
        if self._is_write_paused:
            self._unsent.append((stream_id, data))
        else:
            self._send(stream_id, data)

    def _send(self, stream_id: int, data: bytes) -> None:
        try:
            frame = self._connection.send_response(stream_id, data)
        except LimitError as error:
            status = Status(code=Code.INVALID_ARGUMENT, message=str(error))
            frame = self._connection.send_response(stream_id, envelope.encode_failure(status))
        self._write(frame)

    def _write(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)
            self.written_at = self._loop.time()

    def _call_ended(self) -> None:
        if self._transport is None:
            self._end_if_over()
        elif self._is_read_paused:
            self._pump_later()

    def _end_if_over(self) -> None:
        if self._transport is None and not self._active:
            self._on_end(self)

    def pause_writing(self) -> None:
        """The peer does not keep up: keep answers, read nothing, watch whether it moves."""
        self._is_write_paused = True
        self._stall_checks = 0
        self._watch_stall()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._is_write_paused = False
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        while self._unsent and not self._is_write_paused:
            self._send(*self._unsent.popleft())
        if not self._unsent:
            self._pump_later()
            self._close_if_drained()

    def _watch_stall(self) -> None:
        if self._transport is None:
            return
        self._stall_size = self._transport.get_write_buffer_size()
        delay = self._limits.stall / CHECKS_PER_STALL
        self._stall_timer = self._loop.call_later(delay, self._check_stall)

    def _check_stall(self) -> None:
        if self._transport is None:
            return
        moved = self._transport.get_write_buffer_size() < self._stall_size
        self._stall_checks = 0 if moved else self._stall_checks + 1
        if self._stall_checks >= CHECKS_PER_STALL:
            self._drop("peer does not read")
        else:
            self._watch_stall()

    def drain(self) -> None:
        """Read nothing more; calls under way are answered."""
        self._is_draining = True
        self._pause_reading()

    def close(self) -> None:
        """Close once what is written has been sent."""
        self._is_closing = True
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._is_closing and not self._unsent and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
