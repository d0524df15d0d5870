"""Where the benches run: a short directory, a simulated world in its own process, daemons."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BIN: Final = Path(sys.executable).parent
START_SECONDS: Final = 30.0
POLL: Final = 0.0005
"""Seconds between two attempts to connect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory with the configuration of the daemons.

    Attributes:
        directory: everything is in it.
        kbs: URL of the simulated KBS; empty when the data hub is offline.
    """

    directory: Path
    kbs: str = ""

    @property
    def aa(self) -> str:
        """Path of the attestation agent's socket."""
        return str(self.directory / "aa.sock")

    @property
    def cdh(self) -> str:
        """Path of the data hub's socket."""
        return str(self.directory / "cdh.sock")

    def write_configs(self, image: str = "") -> None:
        """`aa.toml` and `cdh.toml`; `image` is the body of the `[image]` table."""
        attester = '\n[attester]\ntee = "sample"\n'
        token = f'[token_configs.kbs]\nurl = "{self.kbs}"\n' if self.kbs else ""
        (self.directory / "aa.toml").write_text(token + attester)
        resources = self.directory / "resources.json"
        resources.write_text('{"default/key/1": "a2V5MQ=="}')
        kbc = (
            f'[kbc]\nname = "cc_kbc"\nurl = "{self.kbs}"\n'
            if self.kbs
            else f'[kbc]\nname = "offline_fs_kbc"\noffline_files = ["{resources}"]\n'
        )
        (self.directory / "cdh.toml").write_text(
            f'socket = "unix://{self.cdh}"\n[aa]\naa_socket = "unix://{self.aa}"\n{kbc}'
            f'[image]\nwork_dir = "{self.directory}/store"\n{image}'
        )

    def aa_command(self) -> list[str]:
        """How the attestation agent is started."""
        return [
            *(str(BIN / "attestation-agent"), "-a", f"unix://{self.aa}"),
            *("-c", str(self.directory / "aa.toml"), *self._metrics()),
        ]

    def cdh_command(self) -> list[str]:
        """How the data hub is started."""
        return [
            *(str(BIN / "confidential-data-hub"), "-c", str(self.directory / "cdh.toml")),
            *self._runtime(),
            *self._metrics(),
        ]

    def rest_command(self, port: int) -> list[str]:
        """How the REST shim is started."""
        return [
            *(str(BIN / "api-server-rest"), "-b", f"127.0.0.1:{port}", "-f", "all"),
            *("-c", f"unix://{self.cdh}", "-a", f"unix://{self.aa}", *self._metrics()),
        ]

    def serve_command(self, port: int) -> list[str]:
        """How the three are started in one process."""
        return [
            *(str(BIN / "guest"), "serve", "--attestation-sock", f"unix://{self.aa}"),
            *("--aa-config", str(self.directory / "aa.toml")),
            *("--cdh-config", str(self.directory / "cdh.toml")),
            *("--bind", f"127.0.0.1:{port}", "--features", "all"),
            *self._runtime(),
            *self._metrics(),
        ]

    def _runtime(self) -> tuple[str, str]:
        return "--runtime-dir", str(self.directory / "cdh")

    def _metrics(self) -> tuple[str, str]:
        return "--metrics-dir", str(self.directory / "metrics")


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory in memory where there is room, gone afterwards."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def simulator(*options: str) -> Iterator[dict[str, str]]:
    """KBS and registry in a process of their own; gives the addresses they printed."""
    process = subprocess.Popen(
        [str(BIN / "guest-simulator"), "up", "--json", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon while the block runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(address: str | tuple[str, int], process: subprocess.Popen[bytes]) -> socket.socket:
    """The first connection that is accepted.

    Raises:
        SystemExit: the daemon ended, or nothing accepted in `START_SECONDS`.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        attempt = socket.socket(family, socket.SOCK_STREAM)
        if attempt.connect_ex(address) == 0:
            attempt.settimeout(START_SECONDS)
            return attempt
        attempt.close()
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with status {process.returncode}")
        time.sleep(POLL)
    raise SystemExit(f"nothing accepts on {address}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_frame(connection: socket.socket) -> bytes:
    """One ttRPC frame with its header."""
    head = _exactly(connection, 10)
    return head + _exactly(connection, int.from_bytes(head[:4], "big"))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise SystemExit("the daemon closed the connection")
        data += piece
    return data
