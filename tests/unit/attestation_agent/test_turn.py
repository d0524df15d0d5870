"""Turns at one thing: fair among connections, bounded, and never lost."""

import asyncio

import pytest

from attestation_agent import turn as turns
from attestation_agent.turn import FairTurns, Turns, on_behalf_of
from guest.deadline import Deadline
from guest.errors import DeadlineError, LimitError


def soon() -> Deadline:
    return Deadline.after(30)


async def test_connections_are_served_in_turn_and_each_in_its_order() -> None:
    device = FairTurns("the device")
    served: list[tuple[str, int]] = []

    async def call(connection: str, number: int) -> None:
        with on_behalf_of(connection):
            async with device.held(soon()):
                served.append((connection, number))

    await device.take(soon())
    async with asyncio.TaskGroup() as group:
        for connection, count in (("flood", 5), ("cdh", 2), ("other", 1)):
            for number in range(count):
                group.create_task(call(connection, number))
        await asyncio.sleep(0)
        device.give_back()
    assert served == [
        ("flood", 0), ("cdh", 0), ("other", 0), ("flood", 1), ("cdh", 1), ("flood", 2),
        ("flood", 3), ("flood", 4),
    ]  # fmt: skip
    async with device.held(soon()):
        pass


async def test_one_connection_has_32_waiting_calls_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert turns.MAX_WAITING == 32
    monkeypatch.setattr(turns, "MAX_WAITING", 2)
    device = FairTurns("the device")
    await device.take(soon())
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(device.take(soon())) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(LimitError, match="2 calls of this connection wait for the device"):
            await device.take(soon())
        with on_behalf_of("another"), pytest.raises(DeadlineError, match="the device"):
            await device.take(Deadline.after(0.01))
        for task in waiting:
            device.give_back()
            await task
    device.give_back()


async def test_a_turn_of_a_caller_that_left_goes_to_the_next() -> None:
    device = FairTurns("the device")
    await device.take(soon())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(device.take(soon())) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        device.give_back()
        tasks[1].cancel()
        await tasks[2]
    device.give_back()
    await device.take(Deadline.after(1))


async def test_plain_turns_are_first_come_first_served_and_bounded() -> None:
    log = Turns("the log")
    async with log.held(soon()):
        with pytest.raises(DeadlineError, match="no time left for the log"):
            await log.take(Deadline.after(0.01))
    await log.take(soon())
    log.give_back()


async def test_a_thousand_timeouts_leave_nobody_in_the_queue() -> None:
    device = FairTurns("the device")
    await device.take(soon())
    for number in range(1000):
        with on_behalf_of(number % 7), pytest.raises(DeadlineError):
            await device.take(Deadline.after(0))
    assert not any(device._waiting.values())
    device.give_back()
    async with device.held(soon()):
        assert not device._waiting
