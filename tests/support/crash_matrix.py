"""Kills an agent's event log with SIGKILL at every call that changes a file or a register.

A program of its own (`python -m support.crash_matrix DIRECTORY`), because it forks and therefore
must have no thread. It prints one JSON object for each death: what was promised, what was found.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from attestation_agent.attesters.tdx_registers import TdxRegisters
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.journal import Journal
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest_simulator.tdx.domain import RegisterFile
from support.killer import Killer

CALLS: Final = (
    "mkdir", "open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "rename", "replace",
    "unlink", "fchmod", "chmod",
)  # fmt: skip
WRITES: Final = ("write", "pwrite")
MODES: Final = ("before", "half", "after")

EVENTS: Final = (
    ("a.example", "first", "content", None),
    ("github.com/confidential-containers", "second", "content", 9),
)
AFTERWARDS: Final = ("a.example", "afterwards", "content", 17)


class FileRegisters:
    """RTMRs that outlive the process."""

    def __init__(self, path: Path) -> None:
        self._file = RegisterFile(path)

    def read(self, number: int, steps: Steps) -> bytes:
        return self._file.read(number)

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        self._file.extend(number, digest)


async def _live(directory: Path, events: tuple[Any, ...], say: Callable[[str], None]) -> None:
    registers = TdxRegisters(FileRegisters(directory / "rtmr"), DeviceThread("registers"))
    files = LogFiles(str(directory / "run" / "log"))
    journal = Journal(registers, files, default_register=17)
    await journal.open()
    for domain, operation, content, register in events:
        await journal.append(domain, operation, content, register, Deadline.after(30))
        say(operation)


def _fork(directory: Path, events: tuple[Any, ...], point: int, mode: str) -> dict[str, Any]:
    """Live once; gives how it ended, what was promised and how many calls there were."""
    reader, writer = os.pipe()
    write = os.write
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 1
        try:
            killer = Killer(point, mode)
            killer.count(os, *CALLS)
            asyncio.run(_live(directory, events, lambda text: _say(write, writer, text)))
            _say(write, writer, "calls=" + ",".join(killer.names))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as pipe:
        lines = pipe.read().split()
    _, code = os.waitpid(pid, 0)
    calls = [line[6:].split(",") for line in lines if line.startswith("calls=")]
    return {
        "status": os.waitstatus_to_exitcode(code),
        "promised": [line for line in lines if not line.startswith("calls=")],
        "calls": calls[0] if calls else [],
    }


def _say(write: Callable[..., int], writer: int, text: str) -> None:
    write(writer, f"{text}\n".encode())


def _state(directory: Path) -> dict[str, Any]:
    run = directory / "run" / "log"
    log = run / "eventlog"
    registers = RegisterFile(directory / "rtmr").all()
    return {
        "log": log.read_bytes().hex() if log.exists() else "",
        "registers": [value.hex() for value in registers],
        "left": sorted(path.name for path in run.iterdir()) if run.exists() else [],
    }


def _deaths(base: Path) -> Iterator[dict[str, Any]]:
    whole = _fork(base / "whole", EVENTS, 0, "before") if _make(base / "whole") else {}
    yield {"kind": "whole", **whole, **_state(base / "whole")}
    seen: set[str] = set()
    for point, mode in _ways(whole["calls"]):
        place = base / f"{point}-{mode}"
        _make(place)
        first = _fork(place, EVENTS, point, mode)
        state = _state(place)
        key = json.dumps(state, sort_keys=True)
        if ".wal_event_entry" in state["left"] and key not in seen:
            seen.add(key)
            yield from _second_deaths(base, place, first, f"{point} {mode}")
        yield _restart(place, first, f"{point} {mode}")


def _ways(calls: list[str]) -> Iterator[tuple[int, str]]:
    """Every call, before and after it, and in the middle of one that writes."""
    for point, name in enumerate(calls, 1):
        for mode in MODES:
            if mode != "half" or name in WRITES:
                yield point, mode


def _second_deaths(
    base: Path, place: Path, first: dict[str, Any], what: str
) -> Iterator[dict[str, Any]]:
    """Die again at every call of the recovery."""
    copy = base / "copy"
    shutil.copytree(place, copy)
    calls = _fork(copy, (), 0, "before")["calls"]
    for point, mode in _ways(calls):
        shutil.rmtree(copy)
        shutil.copytree(place, copy)
        second = _fork(copy, (), point, mode)
        assert second["status"] == -signal.SIGKILL, second
        yield _restart(copy, first, f"{what}, then {point} {mode}")
    shutil.rmtree(copy)


def _restart(place: Path, first: dict[str, Any], what: str) -> dict[str, Any]:
    again = _fork(place, (), 0, "before")
    state = _state(place)
    later = _fork(place, (AFTERWARDS,), 0, "before")
    return {
        "kind": "death",
        "what": what,
        "status": first["status"],
        "promised": first["promised"],
        "restart": again["status"],
        **state,
        "later": later["status"],
        "later_state": _state(place),
    }


def _make(directory: Path) -> bool:
    directory.mkdir()
    return True


def main() -> None:
    """Run the matrix below a directory."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as base:
        for death in _deaths(Path(base)):
            print(json.dumps(death))


if __name__ == "__main__":
    main()
