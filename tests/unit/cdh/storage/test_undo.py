"""Steps back: their order, what stays, what cancellation may not do."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.errors import PlatformError


class Notes:
    """Steps that say that they were done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    def step(self, name: str) -> Callable[[Deadline], Awaitable[None]]:
        async def work(deadline: Deadline) -> None:
            await self.gate.wait()
            if name in self.failing:
                raise PlatformError(f"{name} stays")
            self.done.append(name)

        return work


async def test_the_last_step_is_taken_back_first_and_once() -> None:
    notes, undo = Notes(), UndoStack()
    for name in "abc":
        undo.push(name, notes.step(name))
    assert await undo.roll_back() == ()
    assert await undo.roll_back() == ()
    assert notes.done == ["c", "b", "a"]


async def test_what_cannot_be_taken_back_is_named_and_tried_again() -> None:
    notes, undo = Notes(), UndoStack()
    for name in "abc":
        undo.push(name, notes.step(name))
    notes.failing = {"b"}
    assert await undo.roll_back() == ("b",)
    assert notes.done == ["c", "a"]
    notes.failing = set()
    assert await undo.roll_back() == ()
    assert notes.done == ["c", "a", "b"]


async def test_a_dropped_step_and_after_success_a_destroying_one_are_not_done() -> None:
    notes, undo = Notes(), UndoStack()
    undo.push("a", notes.step("a"))
    undo.push("wipe", notes.step("wipe"), failed_only=True)
    dropped = undo.push("b", notes.step("b"))
    undo.drop(dropped)
    undo.drop(dropped)
    undo.commit()
    await undo.roll_back()
    assert notes.done == ["a"]


async def test_a_step_that_hangs_leaves_time_to_the_others() -> None:
    notes, undo = Notes(), UndoStack()

    async def hang(deadline: Deadline) -> None:
        await asyncio.Event().wait()

    undo.push("a", notes.step("a"))
    undo.push("hang", hang)
    assert await undo.roll_back(0.5) == ("hang",)
    assert notes.done == ["a"]


async def test_cancellation_waits_for_all_steps_however_often_it_comes() -> None:
    notes, undo = Notes(), UndoStack()
    notes.gate.clear()
    for name in "ab":
        undo.push(name, notes.step(name))
    async with asyncio.TaskGroup() as group:
        work = group.create_task(undo.roll_back())
        for _ in range(3):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            work.cancel()
        await asyncio.sleep(0)
        assert not work.done()
        notes.gate.set()
    assert work.cancelled()
    assert notes.done == ["b", "a"]


async def test_a_bug_in_a_step_is_not_hidden() -> None:
    undo = UndoStack()

    async def broken(deadline: Deadline) -> None:
        raise ZeroDivisionError

    undo.push("x", broken)
    with pytest.raises(ZeroDivisionError):
        await undo.roll_back()
