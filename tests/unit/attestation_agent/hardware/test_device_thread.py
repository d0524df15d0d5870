"""Work on a device: in turn, one at a time, bounded, and never in anybody's way."""

import asyncio
import os
import threading

import pytest

from attestation_agent.hardware import device_thread
from attestation_agent.hardware.device_thread import DeviceThread, run_at_start
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import DeadlineError, LimitError, PlatformError


def soon() -> Deadline:
    return Deadline.after(30)


async def test_work_is_done_in_turn_by_one_thread_that_is_not_the_loops() -> None:
    device = DeviceThread("device")
    seen: list[tuple[int, str]] = []

    def work(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number * 2

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(device.run(lambda _, n=n: work(n), soon()))  # type: ignore[misc]
            for n in range(20)
        ]
    assert [task.result() for task in tasks] == [n * 2 for n in range(20)]
    assert seen == [(n, "device") for n in range(20)]


async def test_a_failure_is_the_askers_alone() -> None:
    device = DeviceThread("device")

    def fail(steps: Steps) -> None:
        raise PlatformError("no")

    with pytest.raises(PlatformError, match="no"):
        await device.run(fail, soon())
    assert await device.run(lambda _: 1, soon()) == 1


async def test_work_that_hangs_is_named_and_goes_on_without_its_asker() -> None:
    device = DeviceThread("device")
    release, released = threading.Event(), threading.Event()

    def hang(steps: Steps) -> None:
        with steps.at("/dev/x", "read"):
            release.wait()
        released.set()

    with pytest.raises(PlatformError, match="/dev/x: read: ETIMEDOUT"):
        await device.run(hang, Deadline.after(0.2))
    with pytest.raises(DeadlineError, match="no time left for the device"):
        await device.run(lambda _: 1, Deadline.after(0.05))
    release.set()
    assert await device.run(lambda _: 2, soon()) == 2
    assert released.is_set()


async def test_work_whose_asker_left_before_it_began_is_never_done() -> None:
    device = DeviceThread("device")
    release, done = threading.Event(), []
    async with asyncio.TaskGroup() as group:
        first = group.create_task(device.run(lambda _: release.wait(), soon()))
        second = group.create_task(device.run(lambda _: done.append(1), soon()))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait((second,))
        release.set()
        await first
    await device.run(lambda _: None, soon())
    assert done == []


async def test_too_much_waiting_work_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_thread, "MAX_WAITING", 1)
    device = DeviceThread("device")
    begun, release = threading.Event(), threading.Event()

    def hold(steps: Steps) -> None:
        begun.set()
        release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(device.run(hold, soon()))
        await asyncio.to_thread(begun.wait)
        group.create_task(device.run(lambda _: None, soon()))
        await asyncio.sleep(0)
        with pytest.raises(LimitError, match="1 calls wait for the device"):
            await device.run(lambda _: None, soon())
        release.set()


async def test_a_thousand_timeouts_leave_one_thread_no_work_and_no_descriptor() -> None:
    device = DeviceThread("device that hangs")
    release = threading.Event()
    done: list[int] = []
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()

    def hang(steps: Steps) -> None:
        with open("/dev/null", "rb"), steps.at("/dev/x", "read"):
            release.wait()

    with pytest.raises(PlatformError, match="ETIMEDOUT"):
        await device.run(hang, Deadline.after(0.2))
    for number in range(1000):
        with pytest.raises(DeadlineError):
            await device.run(lambda _, n=number: done.append(n), Deadline.after(0))  # type: ignore[misc]
    assert threading.active_count() == threads + 1
    release.set()
    assert await device.run(lambda _: 1, soon()) == 1
    assert done == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_an_idle_thread_ends_and_the_next_work_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_thread, "IDLE_SECONDS", 0.001)
    device = DeviceThread("short-lived")

    async def thread() -> threading.Thread:
        return await device.run(lambda _: threading.current_thread(), soon())

    first = await thread()
    await asyncio.to_thread(first.join)
    second = await thread()
    assert second is not first
    assert second.daemon


def test_work_at_start_gives_its_result_or_its_failure_in_a_thread_of_its_own() -> None:
    names = run_at_start("probe", lambda _: threading.current_thread().name, 30)
    assert names == "probe"

    def fail(steps: Steps) -> None:
        raise PlatformError("no")

    with pytest.raises(PlatformError, match="no"):
        run_at_start("probe", fail, 30)


def test_work_at_start_that_hangs_is_named_and_told_that_nobody_waits() -> None:
    told = threading.Event()

    def hang(steps: Steps) -> None:
        with steps.at("/dev/x", "open"):
            steps.given_up.wait()
        told.set()

    with pytest.raises(PlatformError, match=r"/dev/x: open: ETIMEDOUT \(no answer within 0.1 s\)"):
        run_at_start("probe", hang, 0.1)
    assert told.wait(30)
