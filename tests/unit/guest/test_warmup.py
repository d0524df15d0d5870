"""The warm-up imports when nothing else is to be done, and stands in nobody's way."""

import asyncio
import importlib
import logging
import sys
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from guest.supervisor import run_components
from guest.warmup import Quiet, WarmUp

SECONDS = 30.0
SOON = Quiet(seconds=0.001, cpu=1e6)
NEVER = Quiet(seconds=0.001, cpu=-1.0)
PREFIX = "warm_up_probe_"


@dataclass
class Gate:
    """A module that waits in its import until it may go on."""

    entered: Event = field(default_factory=Event)
    opened: Event = field(default_factory=Event)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose modules can be imported, until the test is over."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(PREFIX)]:
        del sys.modules[name]


@pytest.fixture
def gate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate()
    holder = types.ModuleType("warm_up_gate")
    holder.__dict__["gate"] = found
    monkeypatch.setitem(sys.modules, "warm_up_gate", holder)
    text = f"from warm_up_gate import gate\ngate.entered.set()\ngate.opened.wait({SECONDS})\n"
    module(folder, "waits", text)
    yield found
    found.opened.set()


def module(folder: Path, name: str, text: str = "") -> str:
    full = PREFIX + name
    (folder / f"{full}.py").write_text(text)
    importlib.invalidate_caches()
    return full


async def until_imported(name: str) -> None:
    async with asyncio.timeout(SECONDS):
        while name not in sys.modules:
            await asyncio.sleep(0.002)


@asynccontextmanager
async def warming(part: WarmUp) -> AsyncIterator[None]:
    """The component runs; at the end it is told to stop, and does."""
    stop = asyncio.Event()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_components([part], stop=stop), name="process")
        yield
        stop.set()


async def test_it_is_ready_before_it_imports_anything(folder: Path) -> None:
    name, stop, ready = module(folder, "late"), asyncio.Event(), asyncio.Event()
    part = WarmUp([name], idle=NEVER)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(part.run(ready=ready.set, stop=stop), name="warm-up")
        await ready.wait()
        assert name not in sys.modules
        stop.set()


async def test_a_process_that_is_busy_is_left_alone(folder: Path) -> None:
    name, looks = module(folder, "unwanted"), []

    class Busy(Quiet, frozen=True):
        async def is_now(self) -> bool:
            looks.append(await super().is_now())
            return looks[-1]

    async with warming(WarmUp([name], idle=Busy(NEVER.seconds, NEVER.cpu))):
        while len(looks) < 3:
            await asyncio.sleep(0.002)
    assert not any(looks)
    assert name not in sys.modules


async def test_after_a_request_between_two_modules_it_waits_until_the_process_is_idle_again(
    folder: Path,
) -> None:
    names = [module(folder, f"piece_{number}") for number in range(3)]
    looks = []

    class Idle(Quiet, frozen=True):
        async def is_now(self) -> bool:
            looks.append(sum(name in sys.modules for name in names))
            return await super().is_now()

    async with warming(WarmUp(names, idle=Idle(SOON.seconds, SOON.cpu), pause=NEVER)):
        await until_imported(names[-1])
    assert looks == [0, 1, 2]


async def test_a_module_that_cannot_be_imported_costs_a_line_at_debug_and_nothing_else(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = module(folder, "broken", "raise RuntimeError('no library for this')")
    absent, good = PREFIX + "absent", module(folder, "good")
    caplog.set_level(logging.DEBUG, "guest.warmup")
    async with warming(WarmUp([absent, broken, good], idle=SOON, pause=SOON)):
        await until_imported(good)
    lines = [record for record in caplog.records if "beforehand" in record.message]
    assert [record.__dict__["import"] for record in lines] == [absent, broken]
    assert {record.levelno for record in lines} == {logging.DEBUG}
    assert "no library for this" in lines[1].__dict__["error"]
    with pytest.raises(RuntimeError, match="no library for this"):
        importlib.import_module(broken)


async def test_it_prepares_once_all_modules_are_there_and_never_while_the_process_is_busy(
    folder: Path,
) -> None:
    name, seen, prepared = module(folder, "first"), [], asyncio.Event()

    async def prepare() -> None:
        seen.append(name in sys.modules)
        prepared.set()

    async with warming(WarmUp([name], prepare, idle=SOON, pause=SOON)):
        await asyncio.wait_for(prepared.wait(), SECONDS)
    async with warming(WarmUp([], prepare, idle=NEVER)):
        await asyncio.sleep(0.02)
    assert seen == [True]


async def test_what_cannot_be_prepared_costs_a_line_at_debug_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = asyncio.Event()

    async def prepare() -> None:
        tried.set()
        raise OSError("no descriptors left")

    caplog.set_level(logging.DEBUG, "guest.warmup")
    async with warming(WarmUp([], prepare, idle=SOON)):
        await asyncio.wait_for(tried.wait(), SECONDS)
    lines = [record for record in caplog.records if "cannot be prepared" in record.message]
    assert [record.levelno for record in lines] == [logging.DEBUG]
    assert "no descriptors left" in lines[0].__dict__["error"]


async def test_who_needs_another_module_does_not_wait_for_the_one_being_imported(
    folder: Path, gate: Gate
) -> None:
    waits, other = PREFIX + "waits", module(folder, "other")
    async with warming(WarmUp([waits, other], idle=SOON, pause=SOON)):
        await asyncio.to_thread(gate.entered.wait, SECONDS)
        await asyncio.to_thread(importlib.import_module, other)
        assert not gate.opened.is_set()
        gate.opened.set()


async def test_the_stop_waits_for_no_import(folder: Path, gate: Gate) -> None:
    async with warming(WarmUp([PREFIX + "waits"], idle=SOON, pause=SOON)):
        await asyncio.to_thread(gate.entered.wait, SECONDS)
    assert not gate.opened.is_set()
    gate.opened.set()


async def test_a_process_that_computes_is_not_quiet_and_one_that_sleeps_is() -> None:
    assert await Quiet(seconds=0.01, cpu=1e6).is_now()

    async def compute() -> None:
        for _ in range(10):
            sum(range(300_000))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(Quiet(seconds=0.2, cpu=0.0005).is_now(), name="look")
        tasks.create_task(compute(), name="compute")
    assert not looking.result()
