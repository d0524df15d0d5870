"""Calls that block: results, errors, callers that leave."""

import asyncio
import threading

import pytest

from cdh.storage.blocking import run_blocking
from guest.deadline import Deadline
from guest.errors import DeadlineError, InvalidInputError, PlatformError


def soon() -> Deadline:
    return Deadline.after(20)


def fail(error: Exception) -> None:
    raise error


async def test_a_result_comes_back_and_an_error_is_translated() -> None:
    assert await run_blocking(lambda: 7, "work", soon()) == 7
    with pytest.raises(PlatformError, match="work: No space left on device"):
        await run_blocking(lambda: fail(OSError(28, "No space left on device")), "work", soon())
    with pytest.raises(InvalidInputError, match="as it is"):
        await run_blocking(lambda: fail(InvalidInputError("as it is")), "work", soon())
    with pytest.raises(ZeroDivisionError):
        await run_blocking(lambda: fail(ZeroDivisionError()), "work", soon())


async def test_a_caller_that_leaves_waits_until_it_is_known_what_was_done() -> None:
    entered, gate, done = threading.Event(), threading.Event(), []

    def work() -> None:
        entered.set()
        gate.wait(20)
        done.append("done")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_blocking(work, "work", soon()))
        await asyncio.to_thread(entered.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
    assert (task.cancelled(), done) == (True, ["done"])


async def test_what_never_returns_ends_with_the_deadline() -> None:
    gate = threading.Event()
    with pytest.raises(DeadlineError, match="no time left for work"):
        await run_blocking(lambda: gate.wait(30), "work", Deadline.after(0.05))
    gate.set()
