"""What was begun, so that it can be taken back: the last step first, whatever happens meanwhile.

Source: docs/spec/confidential-data-hub.md 10.6; CONTRIBUTING.md 5 (`ROLL_BACK`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec

from guest.deadline import Deadline
from guest.errors import GuestError

log = logging.getLogger(__name__)

ROLL_BACK_SECONDS: Final = 8.0
"""Seconds for all steps together: less than a server leaves a handler that undoes its work."""

STEP_SHARE: Final = 0.6
"""Most of the time left that one step may take: one that hangs leaves some to the others."""

Step = Callable[[Deadline], Awaitable[None]]


class Undo(msgspec.Struct, frozen=True):
    """One step back.

    Attributes:
        what: names it in the log.
        step: does it; may be called although the step forward never came to pass.
        failed_only: takes back what a mount that succeeded is meant to leave for good.
    """

    what: str
    step: Step
    failed_only: bool


class UndoStack:
    """Steps back, in the order of the steps forward."""

    def __init__(self) -> None:
        self._steps: list[Undo] = []

    def push(self, what: str, step: Step, *, failed_only: bool = False) -> Undo:
        """Note how to take back the step that comes next; for `drop`."""
        undo = Undo(what, step, failed_only)
        self._steps.append(undo)
        return undo

    def commit(self) -> None:
        """All went well: from now on the steps back unmount, and destroy nothing."""
        self._steps = [undo for undo in self._steps if not undo.failed_only]

    def drop(self, undo: Undo) -> None:
        """The step forward turned out not to need taking back."""
        with suppress(ValueError):  # it was taken back meanwhile
            self._steps.remove(undo)

    async def roll_back(self, seconds: float = ROLL_BACK_SECONDS) -> tuple[str, ...]:
        """Take everything back; cancellation waits until that is done.

        Returns:
            What could not be taken back; it is logged and kept, so that the next call tries again.
        """
        if not self._steps:
            return ()
        done = asyncio.Event()
        left: list[str] = []
        try:
            await asyncio.shield(self._all(Deadline.after(seconds), left, done))
        except asyncio.CancelledError:
            while not done.is_set():
                with suppress(asyncio.CancelledError):  # raised again below
                    await done.wait()
            raise
        return tuple(left)

    async def _all(self, deadline: Deadline, left: list[str], done: asyncio.Event) -> None:
        try:
            for undo in list(reversed(self._steps)):
                try:
                    limit = deadline.within(deadline.remaining() * STEP_SHARE)
                    async with limit.limit(undo.what):
                        await undo.step(limit)
                    self._steps.remove(undo)
                except GuestError as error:
                    left.append(undo.what)
                    extra = {"step": undo.what, "causes": list(error.causes())}
                    log.error("a step of a mount cannot be taken back", extra=extra)
        finally:
            done.set()
