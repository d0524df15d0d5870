"""swtpm as a process: a TPM 2.0 behind a Unix socket, with whatever keys are asked for."""

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from guest_simulator.tpm import wire

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 60.0


class Swtpm:
    """One TPM; use it as a context manager.

    Attributes:
        path: of its socket, which takes one connection at a time.
    """

    def __init__(self, state: Path, path: Path) -> None:
        """Start nothing yet.

        Args:
            state: an empty directory.
            path: where the socket appears; at most 107 bytes.
        """
        self.path: Final = path
        self._state = state
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._state.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}",
                "--server", f"type=unixio,path={self.path}",
                "--flags", "not-need-init,startup-clear",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        give_up = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RuntimeError("swtpm did not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as end:
            try:
                end.connect(str(self.path))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def stop(self) -> None:
        """End the process; its state stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def send(self, *commands: bytes) -> list[bytes]:
        """Send commands over a connection of their own; the responses to them."""
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(COMMAND_SECONDS)
            end.connect(str(self.path))
            return [exchange(end, command) for command in commands]

    def provision_key(self, handle: int, kind: int = wire.RSA) -> None:
        """Make an attestation key at a persistent handle."""
        body = wire.body_of(self.send(wire.create_key(kind))[0])
        transient = int.from_bytes(body[:4], "big")
        for answer in self.send(wire.make_persistent(transient, handle), wire.flush(transient)):
            wire.body_of(answer)


def exchange(end: socket.socket, command: bytes) -> bytes:
    """One command and its whole response over an open connection.

    Raises:
        ConnectionError: the connection was lost.
    """
    end.sendall(command)
    return read_message(end)


def read_message(end: socket.socket) -> bytes:
    """A whole command or response; empty where the peer is gone.

    Raises:
        ConnectionError: the connection was lost in the middle.
    """
    message = b""
    while len(message) < 10 or len(message) < int.from_bytes(message[2:6], "big"):
        piece = end.recv(65536)
        if not piece:
            if message:
                raise ConnectionError("the peer left in the middle of a message")
            return b""
        message += piece
    return message
