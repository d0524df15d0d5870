"""What every attester's kernel interface may do wrong: an error that names it, never evidence.

One matrix over all attesters: absent, EIO, EACCES, EBUSY, short, too long, garbage, changing
between two reads, and slower than the deadline.
"""

import asyncio
import errno
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from attestation_agent.hardware import sev_guest, tdx_device, tsm
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest_simulator.machine import Machine
from guest_simulator.tdx.guest import Fault
from support.attester_worlds import WORLDS, Garbling, Silent, World

Change = Callable[[bytes], bytes]

ERRORS = (errno.ENOENT, errno.EIO, errno.EACCES, errno.EBUSY)

CONTENTS: dict[str, Change] = {
    "empty": lambda content: b"",
    "short": lambda content: content[: len(content.rstrip()) // 2],
    "too long": lambda content: content + b"\xa5" * (2 * 1024 * 1024),
    "garbage": lambda content: b"\xa5" * len(content),
}

POINTS = [
    (world, call, path)
    for world in WORLDS
    for call, paths in (
        ("read", world.reads),
        ("write", world.writes),
        ("ioctl", world.controls),
    )
    for path in paths
]
READS = [(world, path) for world, call, path in POINTS if call == "read"]
DEVICES = [(world, path) for world, call, path in POINTS if call == "ioctl"]
SPOILED = [(world, path) for world, path in DEVICES if world.answers_in_argument]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(tsm, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(tdx_device, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(sev_guest, "BUSY_PAUSE", 0.0)


def soon() -> Deadline:
    return Deadline.after(30)


@pytest.mark.parametrize("world", WORLDS, ids=str)
async def test_without_a_fault_there_is_evidence(world: World, short_tmp: Path) -> None:
    _, attester = world.build(short_tmp)
    assert await attester.evidence(world.report_data, soon())


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(("world", "call", "path"), POINTS, ids=str)
async def test_an_error_of_the_kernel_is_named_with_path_and_step(
    world: World, call: str, path: str, number: int, short_tmp: Path
) -> None:
    kernel, attester = world.build(short_tmp)
    kernel.faults.append(Fault(path=path, call=call, error=number))
    with pytest.raises(PlatformError) as caught:
        await attester.evidence(world.report_data, soon())
    text = "; ".join(caught.value.causes())
    assert path in text
    assert errno.errorcode[number] in text
    if call != "ioctl":
        assert f": {call}: " in text


@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize(("world", "path"), READS, ids=str)
async def test_content_that_is_not_as_it_must_be_is_an_error(
    world: World, path: str, change: Change, short_tmp: Path
) -> None:
    kernel, attester = world.build(short_tmp)
    kernel.faults.append(Fault(path=path, call="read", change=change))
    with pytest.raises(PlatformError):
        await attester.evidence(world.report_data, soon())


@pytest.mark.parametrize(("world", "path"), READS, ids=str)
async def test_content_that_changes_between_two_reads_is_never_half_evidence(
    world: World, path: str, short_tmp: Path
) -> None:
    kernel, attester = world.build(short_tmp)
    turn = itertools.count()

    def change(content: bytes) -> bytes:
        return content if next(turn) % 2 else b"\xa5" * len(content)

    kernel.faults.append(Fault(path=path, call="read", change=change))
    good = 0
    for _ in range(2):
        try:
            good += bool(await attester.evidence(world.report_data, soon()))
        except PlatformError:
            continue
    assert good <= 1 or path == "/generation"  # which is asked for again, on another instance


@pytest.mark.parametrize(("world", "path"), DEVICES, ids=str)
async def test_a_device_that_says_yes_and_does_nothing_gives_no_evidence(
    world: World, path: str, short_tmp: Path
) -> None:
    kernel, attester = world.build(short_tmp)
    if isinstance(kernel, Machine):
        kernel.devices[path] = Silent()
    else:
        kernel.faults.append(Fault(path=path, call="ioctl", change=lambda found: bytes(len(found))))
    with pytest.raises(PlatformError, match=path):
        await attester.evidence(world.report_data, soon())


@pytest.mark.parametrize(("world", "path"), SPOILED, ids=str)
async def test_a_device_that_answers_garbage_gives_no_evidence(
    world: World, path: str, short_tmp: Path
) -> None:
    kernel, attester = world.build(short_tmp)
    if isinstance(kernel, Machine):
        kernel.devices[path] = Garbling(kernel.devices[path])
    else:
        kernel.faults.append(
            Fault(path=path, call="ioctl", change=lambda found: b"\xa5" * len(found))
        )
    with pytest.raises(PlatformError, match=path):
        await attester.evidence(world.report_data, soon())


@pytest.mark.spec("attesters", 47)
async def test_devices_slower_than_the_deadline_are_named_and_block_nobody(
    short_tmp: Path,
) -> None:
    release = threading.Event()
    slow = [SlowPoint(*point, short_tmp / str(at), release) for at, point in enumerate(POINTS)]
    deadline = Deadline.after(5.0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(point.failure(deadline)) for point in slow]
        # The loop runs while all devices block: else this would never come.
        for point in slow:
            assert await asyncio.to_thread(point.begun.wait, 30)
        assert not any(task.done() for task in tasks)
    release.set()
    for point, task in zip(slow, tasks, strict=True):
        text = str(task.result())
        assert point.path in text
        assert "ETIMEDOUT" in text
        # Whoever comes later has the device again.
        assert await point.attester.evidence(point.world.report_data, soon())


class SlowPoint:
    """An attester with one call that waits until it is released."""

    def __init__(
        self, world: World, call: str, path: str, root: Path, release: threading.Event
    ) -> None:
        self.world = world
        self.path = path
        self.begun = threading.Event()
        kernel, self.attester = world.build(root)
        block = _Waiting(self.begun, release)
        kernel.faults.append(Fault(path=path, call=call, block=block, times=1))

    async def failure(self, deadline: Deadline) -> PlatformError:
        """What evidence comes to."""
        try:
            await self.attester.evidence(self.world.report_data, deadline)
        except PlatformError as error:
            return error
        raise AssertionError(f"{self.world}: evidence in spite of {self.path}")


class _Waiting(threading.Event):
    def __init__(self, begun: threading.Event, release: threading.Event) -> None:
        super().__init__()
        self._begun = begun
        self._release = release

    def wait(self, timeout: float | None = None) -> bool:
        self._begun.set()
        return self._release.wait(timeout)
