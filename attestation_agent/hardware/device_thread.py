"""A thread that waits for one device, so that nothing else does.

Work is done in the order in which it was asked for, one piece at a time. Whoever asked may leave:
work that has not begun is then dropped, work that has begun goes on to its end and releases what
it holds, and its outcome is lost.

Source: CONTRIBUTING.md 8 (a daemon thread of its own per device, with a queue of its own).
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import DeadlineError, LimitError, PlatformError

T = TypeVar("T")

MAX_WAITING: Final = 256
"""Most pieces of work that wait for one device."""

IDLE_SECONDS: Final = 10.0
"""Seconds without work after which the thread ends; the next work starts another."""


class _Job(Generic[T]):
    """One piece of work and who waits for it."""

    __slots__ = ("has_begun", "loop", "outcome", "steps", "work")

    def __init__(self, work: Callable[[Steps], T]) -> None:
        self.work = work
        self.steps = Steps()
        self.has_begun = False
        self.loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[T] = self.loop.create_future()

    def run(self) -> None:
        """In the device's thread."""
        if self.steps.given_up.is_set():
            return
        self.has_begun = True
        try:
            result = self.work(self.steps)
        except BaseException as error:  # noqa: BLE001  # every failure is the waiter's
            self._tell(self._fail, error)
        else:
            self._tell(self._succeed, result)

    def _tell(self, how: Callable[[Any], None], what: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(how, what)

    def _fail(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def _succeed(self, result: T) -> None:
        if not self.outcome.done():
            self.outcome.set_result(result)


class DeviceThread:
    """The queue of one device."""

    def __init__(self, name: str) -> None:
        """Start nothing yet; `name` is the thread's, and the device's in errors."""
        self._name = name
        self._jobs: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._is_running = False

    async def run(self, work: Callable[[Steps], T], deadline: Deadline) -> T:
        """Do `work` in the thread when its turn comes.

        Raises:
            DeadlineError: its turn did not come in time; nothing was done.
            PlatformError: it began and did not end in time; names the step it hangs at.
            LimitError: too much waits already.
            GuestError: what `work` raises.
        """
        job = _Job(work)
        self._put(job)
        try:
            async with deadline.limit(f"the {self._name}"):
                return await job.outcome
        except DeadlineError as error:
            if not job.outcome.cancelled():
                return job.outcome.result()  # it came in the same moment
            if not job.has_begun:
                raise
            text = f"{job.steps.current}: ETIMEDOUT (no answer within the deadline)"
            raise PlatformError(text) from error
        finally:
            job.steps.given_up.set()

    def _put(self, job: _Job[T]) -> None:
        with self._changed:
            if len(self._jobs) >= MAX_WAITING:
                waiting = [each for each in self._jobs if not each.steps.given_up.is_set()]
                self._jobs = deque(waiting)
            if len(self._jobs) >= MAX_WAITING:
                raise LimitError(f"{len(self._jobs)} calls wait for the {self._name} already")
            self._jobs.append(job)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._jobs and not self._changed.wait(IDLE_SECONDS) and not self._jobs:
                    self._is_running = False
                    return
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                job.run()
            del job


def run_at_start(name: str, work: Callable[[Steps], T], seconds: float) -> T:
    """Do `work` before there is anything to serve: blocks, in a thread, for a limited time.

    Raises:
        PlatformError: it did not end in time; names the step it hangs at.
        GuestError: what `work` raises.
    """
    steps = Steps()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            result = work(steps)
        except BaseException as error:  # noqa: BLE001  # every failure is the waiter's
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    done, _ = wait((outcome,), timeout=seconds)
    if not done:
        steps.given_up.set()
        raise PlatformError(f"{steps.current}: ETIMEDOUT (no answer within {seconds:g} s)")
    return outcome.result()
