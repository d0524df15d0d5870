"""A socket in front of a TPM that notes every command, and goes wrong when told to.

It takes any number of connections, as the kernel's resource manager does.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from guest_simulator.tpm import wire
from guest_simulator.tpm.swtpm import exchange, read_message

ACCEPT_SECONDS: Final = 0.2
UPSTREAM_SECONDS: Final = 60.0


@dataclass(kw_only=True)
class TpmFault:
    """What happens to commands instead of what should.

    Attributes:
        code: command code; None is every command.
        answer: the whole response instead; the TPM does not see the command.
        change: what becomes of the TPM's response.
        before: called before the command goes on, with the relay's own way to the TPM.
        block: the command waits for this first.
        drop: the connection ends unanswered.
        skip: so many commands are let pass first.
        times: how often; negative is always.
        hits: how often it has happened.
    """

    code: int | None = None
    answer: bytes | None = None
    change: Callable[[bytes], bytes] | None = None
    before: Callable[[Callable[[bytes], bytes]], object] | None = None
    block: threading.Event | None = None
    drop: bool = False
    skip: int = 0
    times: int = -1
    hits: int = 0

    def fits(self, command: bytes) -> bool:
        """Whether it is this command's turn; counts."""
        if self.times == 0 or self.code not in (None, wire.code_of(command)):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.hits += 1
        return True


@dataclass(kw_only=True)
class Relay:
    """The socket; use it as a context manager.

    Attributes:
        upstream: socket of the TPM; None for one that only faults and `intercept` answer for.
        path: of this socket.
        intercept: answers a command in the TPM's place, or gives None.
        faults: see `TpmFault`.
        commands: all that came, in order.
        exchanges: all that were answered, with their answers.
    """

    path: Path
    upstream: Path | None = None
    intercept: Callable[[bytes], bytes | None] | None = None
    faults: list[TpmFault] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    exchanges: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._upstream = None if self.upstream is None else socket.socket(socket.AF_UNIX)
        if self._upstream is not None:
            self._upstream.settimeout(UPSTREAM_SECONDS)
            try:
                self._upstream.connect(str(self.upstream))
            except OSError:
                self._upstream.close()
                raise
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(32)
        self._listener.settimeout(ACCEPT_SECONDS)
        self._threads = [threading.Thread(target=self._accept, name="TPM relay", daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        for fault in self.faults:
            if fault.block is not None:
                fault.block.set()
        for thread in self._threads:
            thread.join(ACCEPT_SECONDS * 10)
        self._listener.close()
        if self._upstream is not None:
            self._upstream.close()
        self.path.unlink(missing_ok=True)

    def codes(self) -> list[int]:
        """The codes of all commands that came."""
        return [wire.code_of(command) for command in self.commands]

    def _accept(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                end, _ = self._listener.accept()
                end.settimeout(ACCEPT_SECONDS)
                thread = threading.Thread(target=self._serve, args=(end,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, end: socket.socket) -> None:
        with end, suppress(OSError):
            while not self._stopping.is_set():
                try:
                    command = read_message(end)
                except TimeoutError:
                    continue
                if not command:
                    return
                answer = self._answer(command)
                if answer is None:
                    return
                self.exchanges.append((command, answer))
                end.sendall(answer)

    def _answer(self, command: bytes) -> bytes | None:
        self.commands.append(command)
        fault = next((fault for fault in self.faults if fault.fits(command)), None)
        if fault is not None:
            if fault.block is not None:
                fault.block.wait()
            if fault.before is not None:
                fault.before(self.ask)
            if fault.drop:
                return None
            if fault.answer is not None:
                return fault.answer
        answer = None if self.intercept is None else self.intercept(command)
        if answer is None:
            answer = self.ask(command)
        return answer if fault is None or fault.change is None else fault.change(answer)

    def ask(self, command: bytes) -> bytes:
        """The TPM's own response; nothing is noted and nothing goes wrong."""
        if self._upstream is None:
            return wire.response(code=0x18B)
        with self._lock:
            return exchange(self._upstream, command)
