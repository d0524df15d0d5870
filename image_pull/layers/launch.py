"""The puller's side of the unpack server: start it, give it jobs, see its workers end.

Source: docs/ARCHITECTURE.md, decisions 6 and 6a.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from asyncio import Future
from collections.abc import Callable
from concurrent.futures import Future as Started
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Final

from guest.deadline import Deadline
from guest.errors import DeadlineError, DecodeError, PlatformError, UnavailableError
from image_pull.layers import jail, jobs
from image_pull.layers.channel import WorkerChannel
from image_pull.layers.jobs import Exit, Hello, Job, Kill
from image_pull.layers.record import Jail

log = logging.getLogger(__name__)

START_SECONDS: Final = 30.0
"""Seconds a server may take to say that it is ready."""

END_SECONDS: Final = 5.0
"""Seconds it may take to end when nobody wants it any more."""

ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    # a worker frees and asks for the same few blocks again and again: they stay with it
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
}
MODULE: Final = "image_pull.layers.server"


class UnpackServer:
    """One running unpack server; belongs to the event loop that started it.

    Attributes:
        hello: what its workers can do; set by `ready`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = os.memfd_create("unpack-server-errors", os.MFD_CLOEXEC)
        self._over = Event()
        try:
            with theirs:
                self._process = self._start(theirs.fileno())
        except OSError as error:
            self._control.close()
            os.close(self._errors)
            raise PlatformError(f"unpack server cannot be started: {error.strerror}") from error
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._receive)
        self._greeting: Future[Hello] = self._loop.create_future()
        self._exits: dict[int, Future[Exit]] = {}
        self._next = 1
        self._alive = True

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        """Start it from a thread that lasts as long as it does.

        What a pid namespace of its own is asked for holds for the children of one thread, so that
        no other child of this process is concerned; and the server gets SIGKILL when the thread
        that started it ends, be it with all others.
        """
        started: Started[subprocess.Popen[bytes]] = Started()

        def keep() -> None:
            try:
                jail.separate_children()
                started.set_result(self._spawn(descriptor))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                started.set_exception(error)
            else:
                self._over.wait()

        Thread(target=keep, name="unpack-server", daemon=True).start()
        return started.result()

    def _spawn(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-m", MODULE, str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(descriptor,),
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be given jobs."""
        return self._alive

    @property
    def pid(self) -> int:
        """Process id of what was started."""
        return self._process.pid

    async def ready(self, deadline: Deadline) -> Hello:
        """Wait for its greeting.

        Raises:
            PlatformError: it ended without one.
            DeadlineError: it did not come in time.
        """
        async with deadline.within(START_SECONDS).limit("the unpack server to start"):
            try:
                return await asyncio.shield(self._greeting)
            except UnavailableError as error:
                text = os.pread(self._errors, 2000, 0).decode("utf-8", "replace").strip()
                raise PlatformError(f"unpack server did not start: {text[-300:]}") from error

    def begin(self, make: Callable[[int], Job], root: int) -> WorkerChannel:
        """Have a layer unpacked.

        Args:
            make: gives the job for its number.
            root: descriptor of the layer's root; stays the caller's.

        Raises:
            UnavailableError: the server is dead or does not take the job.
        """
        number, self._next = self._next, self._next + 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                job = jobs.encode(make(number))
                socket.send_fds(self._control, [job], [theirs.fileno(), root])
            except OSError as error:
                ours.close()
                raise UnavailableError("unpack server takes no job") from error
        ended: Future[Exit] = self._loop.create_future()
        if not self._alive:
            ended.set_result(Exit(number=number, status=-1, why="unpack server died"))
        self._exits[number] = ended
        return WorkerChannel(ours, ended, lambda: self._kill(number))

    def _kill(self, number: int) -> None:
        try:
            self._control.send(jobs.encode(Kill(number=number)))
        except OSError:
            # full or dead: closing the worker's socket, or the server's death, ends it too
            log.debug("unpack worker could not be killed", extra={"job": number})

    def _receive(self) -> None:
        try:
            data = self._control.recv(jobs.MAX_MESSAGE)
            notice = jobs.decode_notice(data) if data else None
        except BlockingIOError:
            return
        except (OSError, DecodeError):
            notice = None
        match notice:
            case None:
                self._lost()
            case Hello() if not self._greeting.done():
                self._greeting.set_result(notice)
            case Exit(number=number):
                ended = self._exits.pop(number, None)
                if ended is not None and not ended.done():
                    ended.set_result(notice)
            case _:
                pass

    def _lost(self) -> None:
        """The server is dead, and its workers with it."""
        if not self._alive:
            return
        self._alive = False
        self._loop.remove_reader(self._control)
        if not self._greeting.done():
            self._greeting.set_exception(UnavailableError("unpack server ended"))
            self._greeting.exception()
        for number, ended in self._exits.items():
            if not ended.done():
                ended.set_result(Exit(number=number, status=-1, why="unpack server died"))
        self._exits.clear()
        log.warning("unpack server ended", extra={"pid": self._process.pid})

    def close(self) -> None:
        """End it and everything it does; waits a few seconds at most, so call it in a thread."""
        self._control.close()
        os.close(self._errors)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._over.set()

    def detach(self) -> None:
        """Stop listening, on the loop's thread, before `close` in another."""
        if self._alive:
            self._alive = False
            self._loop.remove_reader(self._control)
            for number, ended in self._exits.items():
                if not ended.done():
                    ended.set_result(Exit(number=number, status=-1, why="puller is closing"))
            self._exits.clear()


class UnpackServers:
    """The one server in use, started at the first need and again after a death.

    Args:
        pool: where its end is waited for.
        started: told of the greeting of every server.
    """

    def __init__(self, pool: ThreadPoolExecutor, started: Callable[[Hello], None]) -> None:
        self._pool = pool
        self._started = started
        self._current: UnpackServer | None = None
        self._greeted: UnpackServer | None = None
        self._lock = asyncio.Lock()

    async def current(self, deadline: Deadline) -> tuple[UnpackServer, Hello]:
        """A living server and what it can do.

        Raises:
            PlatformError: it does not start, or it has no full jail although we are root.
            DeadlineError: it did not start in time.
        """
        async with self._lock:
            if self._current is not None and not self._current.is_alive:
                await self._end(self._current)
                self._current = None
            server = self._current = self._current or UnpackServer()
            try:
                hello = await server.ready(deadline)
            except (PlatformError, DeadlineError):
                self._current = None
                await self._end(server)
                raise
            if self._greeted is not server:
                self._greeted = server
                self._started(hello)
            return server, hello

    def start(self) -> None:
        """Have a server on its way, so that the first layer need not wait for all of its start.

        Raises:
            PlatformError: it cannot be started; `current` tries again.
        """
        if self._current is None and not self._lock.locked():
            self._current = UnpackServer()

    async def close(self) -> None:
        """End the server, if there is one."""
        async with self._lock:
            if self._current is not None:
                server, self._current = self._current, None
                await self._end(server)

    async def _end(self, server: UnpackServer) -> None:
        server.detach()
        await asyncio.get_running_loop().run_in_executor(self._pool, server.close)


def log_jail(hello: Hello) -> None:
    """Say once for every server what keeps its workers in, and why no more than that."""
    extra = {"jail": hello.jail.value, "namespaces": ",".join(hello.namespaces)}
    if hello.jail is Jail.FULL:
        log.info("layers are unpacked in the full jail", extra=extra)
    else:
        log.warning("layers are unpacked without the full jail", extra=extra | {"why": hello.why})


def refuse_weak_root(hello: Hello) -> None:
    """Root without the full jail unpacks nothing.

    Raises:
        PlatformError: this is root and the jail is not the full one.
    """
    if os.geteuid() == 0 and hello.jail is not Jail.FULL:
        raise PlatformError(f"unpacking as root needs the full jail: {hello.why}")
