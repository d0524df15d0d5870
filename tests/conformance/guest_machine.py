"""A guest around the installed commands: its own `/run`, `/media` and kernel command line.

The commands run in a mount namespace of their own, with real paths and no flags that only one
implementation has; tests reach their files below `GuestMachine.directory`. Needs the gate `mount`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BIN: Final = Path(os.environ.get("CONFORMANCE_BIN", Path(sys.executable).parent))
"""Where the commands are."""

SECONDS: Final = 60.0
"""Most seconds until a command accepts, or ends, on a busy machine."""

AA: Final = "attestation-agent"
CDH: Final = "confidential-data-hub"
REST: Final = "api-server-rest"
USER_DATA: Final = "process-user-data"
COMMANDS: Final = (AA, CDH, REST, USER_DATA)

AA_SOCKET: Final = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
CDH_SOCKET: Final = "/run/confidential-containers/cdh.sock"

AGENT_PATH: Final = "/bin:/sbin/:/usr/bin/:/usr/sbin/"
"""`PATH` of kata-agent as init, which its children inherit; docs/spec/podvm-image.md 12.3."""

ENTER: Final = """
set -e
mount --bind "$1/run" /run
mount --bind "$1/cmdline" /proc/cmdline
if [ -d /media ]; then mount --bind "$1/media" /media; fi
shift
cd /
exec "$@"
"""


def free_port() -> int:
    """A TCP port on loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Daemon:
    """One command that runs.

    Attributes:
        process: it; its standard input is `/dev/null`.
        log: what it says on standard output and error.
    """

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, address: str | int) -> None:
        """Until it accepts on a socket file as the test sees it, or on a TCP port."""
        ends = time.monotonic() + SECONDS
        family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
        target = ("127.0.0.1", address) if isinstance(address, int) else address
        while True:
            with contextlib.suppress(OSError), socket.socket(family) as probe:
                probe.connect(target)
                return
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < ends, f"{address} does not accept: {self.said()}"
            time.sleep(0.01)

    def said(self) -> str:
        """Everything it has said."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """SIGKILL, and reap it."""
        self.process.kill()
        self.process.wait()


class GuestMachine:
    """The guest.

    Attributes:
        directory: below it lie `run`, `media` and `cmdline`.
    """

    def __init__(self, directory: Path, command_line: str = "root=/dev/dm-0 ro quiet") -> None:
        self.directory = directory
        for name in ("run", "media"):
            (directory / name).mkdir()
        (directory / "cmdline").write_text(f"{command_line}\n")
        self._daemons: list[Daemon] = []

    def at(self, path: str) -> Path:
        """Where the test finds a file of the guest."""
        return self.directory / path.removeprefix("/")

    def write(self, path: str, text: str) -> str:
        """Write a file of the guest; its path in the guest."""
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)
        return path

    def start(self, name: str, *arguments: str, **variables: str) -> Daemon:
        """Start a command as kata-agent does: no HOME, no LANG, no TERM, `/` and `/dev/null`."""
        log = self.directory / f"{len(self._daemons)}-{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command(name, arguments), stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env=_environment(variables), cwd="/",
            )  # fmt: skip
        daemon = Daemon(process, log)
        self._daemons.append(daemon)
        return daemon

    def run(
        self, name: str, *arguments: str, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, started the same way."""
        return subprocess.run(
            self._command(name, arguments), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, env=_environment(variables), cwd="/", timeout=SECONDS,
        )  # fmt: skip

    def start_agent(self, *arguments: str, **variables: str) -> Daemon:
        """An attestation agent on its standard socket, accepting."""
        daemon = self.start(
            AA, "--attestation_sock", f"unix://{AA_SOCKET}", *arguments, **variables
        )
        daemon.wait_for(str(self.at(AA_SOCKET)))
        return daemon

    def start_hub(self, *arguments: str, **variables: str) -> Daemon:
        """A data hub on its standard socket, accepting."""
        daemon = self.start(CDH, *arguments, **variables)
        daemon.wait_for(str(self.at(CDH_SOCKET)))
        return daemon

    def start_rest(self, *arguments: str, **variables: str) -> tuple[Daemon, int]:
        """A REST shim on a free port, accepting; and the port."""
        port = free_port()
        daemon = self.start(REST, "--bind", f"127.0.0.1:{port}", *arguments, **variables)
        daemon.wait_for(port)
        return daemon, port

    def stop(self) -> None:
        """End everything that was started."""
        for daemon in self._daemons:
            daemon.stop()

    def _command(self, name: str, arguments: tuple[str, ...]) -> list[str]:
        unshare = shutil.which("unshare") or "/usr/bin/unshare"
        enter = [unshare, "-m", "/bin/sh", "-c", ENTER, "guest", str(self.directory)]
        return [*enter, str(BIN / name), *arguments]


@contextlib.contextmanager
def guest_machine(command_line: str = "root=/dev/dm-0 ro quiet") -> Iterator[GuestMachine]:
    """A guest with a short path, gone at the end."""
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="cg", dir="/tmp"))
    machine = GuestMachine(directory, command_line)
    try:
        yield machine
    finally:
        machine.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": AGENT_PATH, "RUST_BACKTRACE": "full", **variables}
