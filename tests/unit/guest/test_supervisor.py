"""Components start in order, stop together, and the process leaves with one status."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guest.errors import ConfigError, PlatformError
from guest.supervisor import notify, run_components


class Probe:
    """A component that writes down what it does."""

    def __init__(self, name: str, notes: list[str], *, fails: str = "", ends: bool = False) -> None:
        self.name = name
        self._notes = notes
        self._fails = fails
        self._ends = ends

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        self._notes.append(f"{self.name} starts")
        await asyncio.sleep(0)
        if self._fails == "start":
            raise ConfigError(f"{self.name} is wrong") from ValueError("why")
        ready()
        if self._fails == "later":
            raise PlatformError(f"{self.name} broke")
        try:
            if not self._ends:
                await stop.wait()
        finally:
            self._notes.append(f"{self.name} ends")


async def test_a_component_starts_after_the_one_before_is_ready() -> None:
    notes: list[str] = []
    stop = asyncio.Event()

    class Stopper(Probe):
        async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
            ready()
            stop.set()

    await run_components([Probe("a", notes), Probe("b", notes), Stopper("c", notes)], stop=stop)
    assert notes[:2] == ["a starts", "b starts"]
    assert sorted(notes[2:]) == ["a ends", "b ends"]


@pytest.mark.parametrize(("fails", "text"), [("start", "b is wrong"), ("later", "b broke")])
async def test_a_failure_of_one_ends_all_with_its_error(
    fails: str, text: str, short_tmp: Path
) -> None:
    notes: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "n"))
        manager.setblocking(False)
        parts = [Probe("a", notes), Probe("b", notes, fails=fails), Probe("c", notes)]
        with pytest.raises((ConfigError, PlatformError), match=text) as caught:
            await run_components(parts, stop=asyncio.Event(), notify_socket=str(short_tmp / "n"))
        if fails == "start":
            assert caught.value.causes() == (text, "ValueError: why")
            with pytest.raises(BlockingIOError):
                manager.recv(100)
    assert "a ends" in notes
    assert fails == "later" or "c starts" not in notes


async def test_a_component_that_ends_by_itself_is_a_failure() -> None:
    with pytest.raises(PlatformError, match="b ended by itself"):
        await run_components([Probe("a", []), Probe("b", [], ends=True)], stop=asyncio.Event())


async def test_nothing_starts_when_the_stop_came_first() -> None:
    notes: list[str] = []
    stop = asyncio.Event()
    stop.set()
    await run_components([Probe("a", notes)], stop=stop)
    assert notes == []


def test_the_service_manager_may_be_absent_or_abstract(short_tmp: Path) -> None:
    notify(None, "READY=1")
    notify(str(short_tmp / "none"), "READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{short_tmp}")
        notify(f"@{short_tmp}", "READY=1")
        assert manager.recv(100) == b"READY=1"


SCRIPT = """
import asyncio, sys
from guest.errors import ConfigError, PlatformError
from guest.supervisor import main_loop

class Service:
    name = "service"
    async def run(self, *, ready, stop):
        ready()
        print("up", flush=True)
        await stop.wait()
        await asyncio.sleep({linger})

async def build():
    {build}
    return [Service()]

main_loop(build, program="probe", notify_socket={notify!r}, fast_loop={fast})
"""


def start(
    repository: Path, *, build: str = "pass", linger: float = 0, notify: str | None = None,
    fast: bool = True,
) -> subprocess.Popen[str]:  # fmt: skip
    script = SCRIPT.format(build=build, linger=linger, notify=notify, fast=fast)
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=repository, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("fast", [True, False])
def test_a_signal_stops_with_status_zero(
    repository: Path, short_tmp: Path, number: signal.Signals, fast: bool
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "n"))
        manager.settimeout(30)
        with start(repository, notify=str(short_tmp / "n"), fast=fast) as process:
            assert manager.recv(100) == b"READY=1"
            process.send_signal(number)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(30) == 0


def test_a_second_signal_ends_the_process_at_once(repository: Path, short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "n"))
        manager.settimeout(30)
        with start(repository, linger=1000, notify=str(short_tmp / "n")) as process:
            assert manager.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 128 + signal.SIGTERM


def test_a_start_that_fails_says_why_in_one_line_and_ends_with_one(repository: Path) -> None:
    build = 'raise PlatformError("start it") from ConfigError("a.toml: x: wrong\\nvalue")'
    with start(repository, build=build) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err == "probe: start it: a.toml: x: wrong value\n"


def test_a_bug_at_start_ends_with_one_too(repository: Path) -> None:
    with start(repository, build="raise KeyError('x')") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "probe: KeyError: 'x'"


def test_a_fault_says_in_which_function_the_process_was(repository: Path) -> None:
    with start(repository) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSEGV)
        _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGSEGV
    assert err.startswith("Fatal Python error: Segmentation fault\n")
    assert " in main_loop\n" in err
