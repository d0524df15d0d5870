"""Probes of time: how soon a service is back or ends, sockets at the instant they are there."""

import ctypes
import os
import select
import socket
import statistics
import struct
import time
from pathlib import Path
from typing import Final

from podvm.probes.costs import LISTENS, python_seconds
from podvm.probes.report import (
    SOCKETS,
    ProbeError,
    cpu_seconds,
    demand,
    expected,
    process,
    run,
    unit,
    wait_active,
)
from podvm.probes.services import fetch

SERVICES: Final = ("attestation-agent", "confidential-data-hub", "api-server-rest")
SLOWNESS: Final = 10.0
"""Limits of wall time are as many times as long here: emulation, on machines with other work."""

AGAIN_SECONDS: Final = 3.0 * SLOWNESS
"""Seconds from a service's death to its next start."""

ENDS_SECONDS: Final = 5.0 * SLOWNESS
"""Seconds from SIGTERM to the end of a service; the manager kills it after 10."""

ARRIVED: Final = 0x80 | 0x100
"""inotify: moved to the directory, created in it."""

RESTARTS: Final = 25
"""Of each of the two services."""


def _monotonic(name: str, field: str) -> float:
    return int(unit(name, f"{field}TimestampMonotonic")) / 1e6


def restarted() -> str:
    """After SIGKILL every service is back by itself, soon, and answers."""
    pauses = {name: _killed(name) for name in SERVICES}
    status, body = fetch(str(expected()["rest_path"]))
    demand(status == expected()["rest_status"], f"after the restarts: {status} {body[:200]}")
    return ", ".join(f"{name} started {pause:.1f} s after" for name, pause in pauses.items())


def _killed(name: str) -> float:
    """Kill a service, wait until it is back; the seconds until it was started."""
    before = unit(name, "MainPID")
    killed = time.monotonic()
    run(["systemctl", "kill", "--signal=KILL", name])
    wait_active(name, 200, before)
    pause = _monotonic(name, "ExecMainStart") - killed
    demand(pause <= AGAIN_SECONDS, f"{name} was started after {pause:.1f} s")
    return pause


def stopped_cleanly() -> str:
    """SIGTERM: exit status 0 within its time, no kill by the manager, no failure noted."""
    times = []
    for name in ("api-server-rest", "confidential-data-hub", "attestation-agent"):
        pid = unit(name, "MainPID")
        asked = time.monotonic()
        run(["systemctl", "restart", name], seconds=200)
        run(["journalctl", "--sync"])
        said = run(["journalctl", "-b", "-o", "cat", "--no-pager", "-u", name, "-n", "60"])
        demand(unit(name, "MainPID") != pid, f"{name} was not restarted")
        for bad in ("timed out", "Failed with result", "Killing process", "Traceback"):
            after = said.rsplit("Stopping ", 1)[-1]
            demand(bad not in after, f"{name}: {after[-200:]}")
        took = _monotonic(name, "ExecMainStart") - asked
        demand(took <= ENDS_SECONDS, f"{name} ended after {took:.1f} s")
        times.append(f"{name} {took:.1f} s")
    return f"ended by SIGTERM: {', '.join(times)}"


def with_debug_logs() -> str:
    """From here on the services log at the level debug."""
    run(["systemctl", "set-environment", "RUST_LOG=debug"])
    return stopped_cleanly()


class _Arrivals:
    """What appears in a directory, as the kernel tells it."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self._file, os.fsencode(directory), ARRIVED) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def wait(self, name: str, seconds: float) -> None:
        """Return when the name is there.

        Raises:
            ProbeError: it does not come.
        """
        limit = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self._file], [], [], max(0.0, limit - time.monotonic()))
            if not ready:
                raise ProbeError(f"{name} did not come")
            data = os.read(self._file, 65536)
            while data:
                (length,) = struct.unpack_from("12xI", data)
                found = data[16 : 16 + length].rstrip(b"\0")
                data = data[16 + length :]
                if found == name.encode():
                    return

    def close(self) -> None:
        """Stop."""
        os.close(self._file)


def accepts_at_once() -> str:
    """A socket accepts as soon as its name is there, in 50 restarts; what these cost is told."""
    tries = 0
    empty, costs = [], []
    started = time.monotonic()
    for name, path in SOCKETS.items():
        arrivals = _Arrivals(Path(path).parent)
        spent = []
        for _ in range(RESTARTS):
            empty.append(python_seconds("pass"))
            run(["systemctl", "restart", "--no-block", name])
            arrivals.wait(Path(path).name, 200)
            with socket.socket(socket.AF_UNIX) as peer:
                status = peer.connect_ex(path)
            demand(status == 0, f"{path}: {os.strerror(status)} at try {tries}")
            spent.append(cpu_seconds(process(name)))
            tries += 1
        arrivals.close()
        wait_active(name, 200)
        times = statistics.median(spent) / statistics.median(empty[-RESTARTS:])
        costs.append(f"{name} {times:.1f}x ({min(spent):.2f} s to {max(spent):.2f} s)")
    return (
        f"0 of {tries} connects refused, {(time.monotonic() - started) / tries:.1f} s each; "
        f"processor time up to the socket, medians of {RESTARTS}: {', '.join(costs)} "
        f"of {statistics.median(empty):.2f} s; bar {LISTENS:.0f}x told only"
    )
