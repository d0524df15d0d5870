"""This process hardened, and other programs run: argument list, no shell, deadline, bounded output.

Source: CONTRIBUTING.md 8 "Processes" and 13; docs/ARCHITECTURE.md.
"""

import asyncio
import fcntl
import os
import resource
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Final, Self, cast

import msgspec

from guest.deadline import Deadline, boot_seconds
from guest.errors import LimitError, PlatformError
from guest.secret import Secret

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for when the root was started without `PATH`."""

LOCALE: Final = "C.UTF-8"

MAX_OUTPUT: Final = 1024 * 1024
"""Most bytes of standard output, and of standard error, unless the call says otherwise."""

MAX_DESCENDANTS: Final = 256
"""Most processes below a program that are looked for when it is ended."""

_PR_SET_DUMPABLE: Final = 4


def harden() -> None:
    """Files are private, no core is dumped, no other process reads this one's memory.

    The first thing that every root does; may be called again.

    Raises:
        PlatformError: the kernel refused.
    """
    import ctypes

    os.umask(0o077)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    except (OSError, ValueError) as error:
        raise PlatformError("core dumps cannot be switched off") from error


def started_at() -> float:
    """When this process began, in seconds since boot; now where the kernel does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        began = 0.0
    now = boot_seconds()
    return began if 0 < began <= now else now


def find_program(name: str, path: str = DEFAULT_PATH) -> str:
    """The absolute path of an executable file.

    Args:
        name: a bare name, or a path with a slash that is only checked.
        path: directories, separated by colons; relative ones are passed over.

    Raises:
        PlatformError: there is none.
    """
    folders = [""] if "/" in name else [f for f in path.split(":") if f.startswith("/")]
    for folder in folders:
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise PlatformError(f"program {name} is not installed")


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A program that ended.

    Attributes:
        program: what was run, without its arguments, which may be private.
        status: exit status; negative is the number of the signal that ended it.
        stdout: all of it.
        stderr: all of it.
    """

    program: str
    status: int
    stdout: bytes
    stderr: bytes

    def verify_success(self) -> None:
        """Require exit status 0.

        Raises:
            PlatformError: another status; says the last line of standard error.
        """
        if self.status == 0:
            return
        lines = self.stderr.decode("utf-8", "replace").strip().splitlines()
        how = f"exit status {self.status}" if self.status > 0 else f"signal {-self.status}"
        raise PlatformError(f"{self.program}: {how}" + (f": {lines[-1][:300]}" if lines else ""))


async def run_program(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    stdin: Secret | bytes | None = None,
    env: Mapping[str, str] | None = None,
    path: str = DEFAULT_PATH,
    max_output: int = MAX_OUTPUT,
    daemonizes: bool = False,
) -> Completed:
    """Run a program to its end, in a session of its own; whatever happens, none of that is left.

    A program that does not end by itself takes its children with it, those in other sessions too.

    Args:
        argv: `argv[0]` is a name for `find_program` or an absolute path; nothing secret in it.
        deadline: when it must have ended.
        stdin: given to it whole; None is an empty input.
        env: beside `PATH` and `LC_ALL`, which are all that it gets of ours.
        path: its `PATH`, and where `argv[0]` is looked for.
        max_output: most bytes of standard output, and of standard error.
        daemonizes: what it leaves running on purpose may keep standard error, which is read when
            the program itself ends and takes no more from then on; standard output is not read.

    Raises:
        PlatformError: there is no such program, or it cannot be started.
        DeadlineError: it did not end in time.
        LimitError: it wrote more than `max_output`.
    """
    program = find_program(argv[0], path)
    environment = {"PATH": path, "LC_ALL": LOCALE} | dict(env or {})
    loop = asyncio.get_running_loop()
    with _Kept(max_output) if daemonizes else nullcontext() as kept:
        async with deadline.limit(f"program {argv[0]}"):
            try:
                transport, child = await loop.subprocess_exec(
                    lambda: _Child(argv[0], max_output, piped=kept is None), program, *argv[1:],
                    stdin=PIPE, stdout=PIPE if kept is None else DEVNULL,
                    stderr=PIPE if kept is None else kept.file,
                    env=environment, cwd="/", start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise PlatformError(f"program {argv[0]} cannot be started") from error
            try:
                _feed(transport, stdin)
                stdout, stderr = await child.output
                await child.exited.wait()
            finally:
                await asyncio.shield(_end(transport, child))
        if kept is not None:
            stderr = kept.seal()
    status = transport.get_returncode()
    assert status is not None
    return Completed(program=argv[0], status=status, stdout=stdout, stderr=stderr)


class _Child(asyncio.SubprocessProtocol):
    """Collects what a program writes.

    Attributes:
        output: standard output and error, once both have ended; LimitError when one is too long.
        exited: set when the program has ended.
    """

    def __init__(self, name: str, max_output: int, *, piped: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.output: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()
        if not piped:
            self.output.set_result((b"", b""))
        self.exited = asyncio.Event()
        self._name = name
        self._max_output = max_output
        self._collected = {1: bytearray(), 2: bytearray()}
        self._open = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep it, up to the limit."""
        if self.output.done():
            return
        self._collected[fd] += data
        if len(self._collected[fd]) > self._max_output:
            text = f"program {self._name} wrote more than {self._max_output} bytes"
            self.output.set_exception(LimitError(text))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note an end; that the program did not read its input is its business."""
        self._open.discard(fd)
        if not self._open and not self.output.done():
            self.output.set_result((bytes(self._collected[1]), bytes(self._collected[2])))

    def process_exited(self) -> None:
        """The program has ended; its pipes may not have."""
        self.exited.set()


class _Kept:
    """Standard error in memory: a daemon may hold it for good, and cannot make it grow."""

    def __init__(self, limit: int) -> None:
        self.file: Final = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._limit = limit

    def __enter__(self) -> Self:
        return self

    def seal(self) -> bytes:
        """What was written until now; writing fails from now on."""
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        return os.pread(self.file, self._limit, 0)

    def __exit__(self, *_: object) -> None:
        os.close(self.file)


def _feed(transport: asyncio.SubprocessTransport, content: Secret | bytes | None) -> None:
    # uvloop's transports have the methods and not the base class
    pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
    if content is not None:
        pipe.write(content.reveal() if isinstance(content, Secret) else content)
    pipe.close()  # flushes first


async def _end(transport: asyncio.SubprocessTransport, child: _Child) -> None:
    """Leave nothing: the program's session ends, its pipes are closed, its status is read."""
    if transport.get_returncode() is None:
        children = _descendants(transport.get_pid())
        with suppress(ProcessLookupError):  # it ended between the look and the signal
            os.killpg(transport.get_pid(), signal.SIGKILL)
        for child_pid in children:
            with suppress(ProcessLookupError):  # it was in the same session
                os.kill(child_pid, signal.SIGKILL)
    await child.exited.wait()
    transport.close()
    if child.output.done() and not child.output.cancelled():
        child.output.exception()  # seen, also when the caller left before it


def _descendants(pid: int) -> list[int]:
    """The children of a process and theirs, as far as the kernel tells."""
    found: list[int] = []
    queue = [pid]
    while queue and len(found) < MAX_DESCENDANTS:
        each = queue.pop()
        with suppress(OSError):  # it ended, or the kernel does not list children
            for thread in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{thread}/children", "rb") as file:
                    children = [int(number) for number in file.read().split()]
                found += children
                queue += children
    return found
