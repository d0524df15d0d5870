"""Calls under way in a server: runs handlers, and keeps deadlines and promises on cancellation.

Every transport serves through this, so that they cannot differ.

Source: docs/spec/ttrpc.md 5, 6.1, 7; CONTRIBUTING.md 5 and 6.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Final, NamedTuple

from google.protobuf.message import Message
from msgspec.structs import replace

from guest import correlation
from guest.deadline import boot_seconds
from guest.errors import GuestError
from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.method import Bound, CallContext, OnCancel
from guest.rpc.server import CallObserver
from guest.rpc.status import Code, Status, StatusError, status_of

TEXT_TIMEOUT: Final = "timeout"
TEXT_BUG: Final = "internal error"

KILL_SECONDS: Final = 1.0
"""Seconds that a handler has to end after its last cancellation, when a server stops."""

LINE_SECONDS: Final = 0.02
"""Longest wait, in seconds, of the line of a call that went well: lines are written together."""

LINES_AT_ONCE: Final = 32
"""Lines that wait no longer, since writing them holds the loop."""

Outcome = Message | Status
"""A response message, or why there is none."""

Reply = Callable[[Outcome], None]
"""Takes the outcome of a call, once; not called for a caller that left."""

log = logging.getLogger(__name__)


class Call:
    """One call being served. Created by `Calls.start`."""

    __slots__ = (
        "_calls",
        "_on_end",
        "_reply",
        "_started",
        "_task",
        "_timer",
        "bound",
        "context",
        "identity",
        "is_cancelled",
    )

    def __init__(
        self,
        calls: "Calls",
        bound: Bound[Message, Message],
        context: CallContext,
        reply: Reply,
        on_end: Callable[["Call"], None] | None,
    ) -> None:
        self._calls = calls
        self._on_end = on_end
        self._reply: Reply | None = reply
        self._started = boot_seconds()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.bound = bound
        self.context = context
        self.identity = correlation.choose(context.metadata)
        self.is_cancelled = False

    @property
    def is_running(self) -> bool:
        """Whether the handler has not ended yet."""
        return self._task is not None and not self._task.done()

    def begin(self, request: Message, spawn: Callable[..., asyncio.Task[None]]) -> None:
        """Run the handler in a task of its own."""
        left = self.context.deadline.remaining()
        if left <= 0:
            self._decide(Status(code=Code.DEADLINE_EXCEEDED, message=TEXT_TIMEOUT))
            self._end()
            return
        self._task = spawn(self._run(request), name=f"call {self.bound.method.path}")
        self._task.add_done_callback(self._end)
        if not math.isinf(left):
            self._timer = asyncio.get_running_loop().call_later(left, self._time_out)

    async def _run(self, request: Message) -> None:
        correlation.enter(self.identity)
        try:
            self._decide(await self.bound.handler(request, self.context))
        except asyncio.CancelledError:
            if self.is_cancelled:
                self._decide(Status(code=Code.CANCELLED, message="cancelled"))
            else:
                log.error("handler cancelled itself", extra={"method": self.bound.method.path})
                self._decide(Status(code=Code.INTERNAL, message=TEXT_BUG))
        except StatusError as error:
            self._decide(self._in_time(error.status))
        except GuestError as error:
            self._decide(self._in_time(status_of(error, str(error))))
        except Exception:
            log.exception("handler failed", extra={"method": self.bound.method.path})
            self._decide(Status(code=Code.INTERNAL, message=TEXT_BUG))

    def _in_time(self, status: Status) -> Status:
        """A handler that used up what its caller gave it says what our timer would have said."""
        is_over = self.context.deadline.for_inner_call().is_over()
        is_late = is_over and status.code == Code.DEADLINE_EXCEEDED
        return replace(status, message=TEXT_TIMEOUT) if is_late else status

    def _end(self, _task: asyncio.Task[None] | None = None) -> None:
        self._decide(Status(code=Code.CANCELLED, message="cancelled"))  # before its first step
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._calls.forget(self)
        if self._on_end is not None:
            self._on_end(self)

    def _time_out(self) -> None:
        self._decide(Status(code=Code.DEADLINE_EXCEEDED, message=TEXT_TIMEOUT))
        self._timer = None
        self._cancel()

    def leave(self) -> None:
        """The caller is gone: nothing will be answered; the method says what happens."""
        if self._reply is not None:
            self._reply = None
            self._report(Code.CANCELLED, None)
        self._cancel()

    def _cancel(self) -> None:
        if self.is_cancelled or self._task is None:
            return
        on_cancel = self.bound.method.on_cancel
        if on_cancel is OnCancel.FINISH:
            return
        self.is_cancelled = True
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if on_cancel is OnCancel.ROLL_BACK:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._calls.roll_back, self.kill)

    def kill(self) -> None:
        """Cancel the handler, whatever the method says."""
        self.is_cancelled = True
        if self._task is not None and not self._task.done():
            log.warning("handler stopped", extra={"method": self.bound.method.path})
            self._task.cancel()

    def _decide(self, outcome: Outcome) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if isinstance(outcome, Status):
            if outcome.detail is not None:
                outcome.detail.request_id = self.identity
            known = outcome.code in Code.__members__.values()
            self._report(Code(outcome.code) if known else Code.UNKNOWN, outcome.detail)
        else:
            self._report(Code.OK, None)
        reply(outcome)

    def _report(self, code: Code, detail: ErrorDetail | None) -> None:
        ended = boot_seconds()
        self._calls.report(_Ended(self, code, detail, ended, ended - self._started))


class _Ended(NamedTuple):
    """A call whose outcome is decided: `at` that boot second, after so many `seconds`."""

    call: Call
    code: Code
    detail: ErrorDetail | None
    at: float
    seconds: float

    def log(self) -> None:
        """Write the line, with the time at which the call ended."""
        extra: dict[str, object] = {
            "method": self.call.bound.method.path,
            "code": self.code.name,
            "seconds": round(self.seconds, 6),
            "peer": self.call.context.peer,
            "request": self.call.identity,
        }
        if self.detail is not None:
            extra |= {"error": self.detail.code, "causes": list(self.detail.causes)}
        record = log.makeRecord(
            log.name, logging.INFO, __file__, 0, "call ended", (), None, extra=extra
        )
        record.created -= boot_seconds() - self.at
        log.handle(record)


class Calls:
    """All calls of one server, and the tasks they run in."""

    def __init__(self, observer: CallObserver | None, roll_back: float) -> None:
        self.observer = observer
        self.roll_back = roll_back
        self._group: asyncio.TaskGroup | None = None
        self._active: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_stopped = False
        self._unlogged: list[_Ended] = []
        self._line_timer: asyncio.TimerHandle | None = None

    @property
    def active(self) -> int:
        """How many handlers run."""
        return len(self._active)

    async def open(self) -> None:
        """Be ready to start calls; may be called again."""
        if self._group is None and not self._is_stopped:
            group = asyncio.TaskGroup()
            await group.__aenter__()
            self._group = group

    def spawn(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Run a task of the server itself, which ends with it."""
        assert self._group is not None, "not open"
        return self._group.create_task(work, name=name)

    def start(
        self,
        bound: Bound[Message, Message],
        request: Message,
        context: CallContext,
        reply: Reply,
        on_end: Callable[[Call], None] | None = None,
    ) -> Call:
        """Serve one call.

        Args:
            bound: the method and its handler.
            request: the decoded request.
            context: what the handler gets to know.
            reply: gets the outcome.
            on_end: told when the handler has ended, which may be long after the reply.
        """
        call = Call(self, bound, context, reply, on_end)
        self._active.add(call)
        self._idle.clear()
        call.begin(request, self.spawn)
        return call

    def forget(self, call: Call) -> None:
        """The call's handler has ended."""
        self._active.discard(call)
        if not self._active:
            self._idle.set()

    def report(self, ended: _Ended) -> None:
        """Count a call; its line follows with others', one turn of the loop later if it failed."""
        if self.observer is not None:
            path = ended.call.bound.method.path
            self.observer.call_ended(path, ended.code, ended.seconds, ended.detail)
        if not log.isEnabledFor(logging.INFO):
            return
        self._unlogged.append(ended)
        loop = asyncio.get_running_loop()
        if self._line_timer is None:
            self._line_timer = loop.call_later(LINE_SECONDS, self._write_lines)
        if ended.code is not Code.OK or len(self._unlogged) == LINES_AT_ONCE:
            loop.call_soon(self._write_lines)

    def _write_lines(self) -> None:
        if self._line_timer is not None:
            self._line_timer.cancel()
            self._line_timer = None
        unlogged, self._unlogged = self._unlogged, []
        for ended in unlogged:
            ended.log()

    async def finish(self, grace: float, undo: float) -> None:
        """Wait `grace` seconds for all calls, then `undo` for those that roll back or finish."""
        await self._wait(grace)
        for call in tuple(self._active):
            call.leave()
        await self._wait(undo)
        for call in tuple(self._active):
            call.kill()
        await self._wait(KILL_SECONDS)

    async def _wait(self, seconds: float) -> None:
        if self._active:
            try:
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
            except TimeoutError:
                log.debug("calls go on", extra={"count": len(self._active)})

    async def close(self) -> None:
        """Let go of the tasks, after `finish`; a handler that ignores cancellation is left."""
        self._is_stopped = True
        self._write_lines()
        group, self._group = self._group, None
        if group is None:
            return
        if self._active:
            log.error("handlers ignore cancellation", extra={"count": len(self._active)})
            return
        await group.__aexit__(None, None, None)
