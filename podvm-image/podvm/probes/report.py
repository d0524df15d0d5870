"""One line per result on the console, and what every probe needs to look around.

Source: docs/spec/podvm-image.md 17, "Reporting".
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

SECONDS: Final = 120.0
"""Seconds that one command may take under emulation."""

POLL: Final = 0.5
"""Seconds between two looks at something that is waited for."""

MAX_DETAIL: Final = 2000
"""Characters of a detail on the console."""

SOCKETS: Final = {
    "attestation-agent": "/run/confidential-containers/attestation-agent/attestation-agent.sock",
    "confidential-data-hub": "/run/confidential-containers/cdh.sock",
}
"""Paths of sockets by service."""

REST_LISTENS: Final = "0100007F:1F46 00000000:0000 0A"
"""In a table of TCP sockets: 127.0.0.1:8006 listens."""

PLACE: Final = Path("/run/smoke")
"""Where the probes and what they expect were unpacked."""


class ProbeError(Exception):
    """Something is not as it has to be."""


def expected() -> dict[str, object]:
    """What the host says that has to be found."""
    document = json.loads((PLACE / "expected.json").read_text())
    assert isinstance(document, dict)
    return document


def say(line: str) -> None:
    """Write a line of its own, in one go: the console has other writers."""
    os.write(1, f"\r\n{line}\r\n".encode("ascii", "replace"))


def probe(name: str, work: Callable[[], str]) -> None:
    """Run one and report it; no exception leaves.

    Args:
        name: the identifier, such as `S3` or `S3.quote`.
        work: gives a detail; raises when the assertion does not hold.
    """
    started = time.monotonic()
    try:
        status, detail = "ok", work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a result
        status, detail = "fail", f"{type(error).__name__}: {error}"
        cause = error.__cause__
        while cause is not None:
            detail += f" <- {cause}"
            cause = cause.__cause__
    detail = " ".join(detail.split())[:MAX_DETAIL]
    say(f"SMOKE {name} {status} {detail} [{time.monotonic() - started:.1f} s]")


def demand(condition: object, text: str) -> None:
    """Hold, or fail with a text.

    Raises:
        ProbeError: it does not hold.
    """
    if not condition:
        raise ProbeError(text)


def run(words: Sequence[str], *, seconds: float = SECONDS, may_fail: bool = False) -> str:
    """Run a command; give what it prints.

    Raises:
        ProbeError: it failed, unless it may.
    """
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=seconds, check=False,
    )  # fmt: skip
    if done.returncode != 0 and not may_fail:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ProbeError(f"{' '.join(words[:3])} ended with {done.returncode}: {' / '.join(said)}")
    return done.stdout + (done.stderr if may_fail else "")


def wait_for(
    what: str, holds: Callable[[], object], seconds: float, *, poll: float = POLL
) -> float:
    """Wait until something holds; give the seconds that it took.

    Args:
        what: it is, for people.
        holds: whether it does.
        seconds: that it may take.
        poll: seconds between two looks.

    Raises:
        ProbeError: it did not in time.
    """
    started = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return time.monotonic() - started
        if time.monotonic() - started > seconds:
            raise ProbeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(poll)


def unit(name: str, field: str) -> str:
    """One property of a unit."""
    return run(["systemctl", "show", "-P", field, name]).strip()


def listens(name: str) -> bool:
    """Whether a service has a socket that accepts; costs less than asking systemd.

    A service that is not one of ours counts as one that does.
    """
    if path := SOCKETS.get(name):
        with socket.socket(socket.AF_UNIX) as peer:
            return peer.connect_ex(path) == 0
    if name != "api-server-rest":
        return True
    group = Path(f"/sys/fs/cgroup/system.slice/{name}.service/cgroup.procs")
    tables = (Path(f"/proc/{pid}/net/tcp").read_text() for pid in group.read_text().split())
    return any(REST_LISTENS in table for table in tables)


def wait_active(name: str, seconds: float, before: str = "0") -> float:
    """Wait until a unit is active; give the seconds that it took.

    Args:
        name: of the unit.
        seconds: that it may take.
        before: the process that it must not be any more.

    Raises:
        ProbeError: it is not in time.
    """

    def holds() -> bool:
        if not listens(name):
            return False
        said = run(["systemctl", "show", "-p", "MainPID,ActiveState", name]).splitlines()
        return "ActiveState=active" in said and f"MainPID={before}" not in said

    return wait_for(name, holds, seconds)


def open_broker() -> None:
    """Have the host let connections to the key broker through from now on.

    Raises:
        ProbeError: it does not.
    """
    host = str(expected()["kbs_address"]).split(":")[0]
    with socket.create_connection((host, int(str(expected()["kbs_control"]))), SECONDS) as peer:
        peer.settimeout(SECONDS)
        demand(peer.recv(1) == b"", "the host said something")


def cpu_seconds(pid: str) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process(name: str) -> str:
    """A service's process; empty between two."""
    group = Path(f"/sys/fs/cgroup/system.slice/{name}.service/cgroup.procs")
    return next(iter(group.read_text().split()), "")
