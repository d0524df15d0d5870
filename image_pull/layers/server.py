"""The unpack server: started once by the puller, forks a jailed worker for every layer.

`python -I -m image_pull.layers.server FD`, where FD is its end of a packet socket. It has no
threads and no event loop, and everything imported before its first fork. It ends when the
puller closes the socket or dies; its workers end with it.

Source: docs/ARCHITECTURE.md, decision 6a.
"""

import gc
import os
import select
import signal
import socket
import sys
from typing import Final, NoReturn

from guest.errors import DecodeError
from image_pull.layers import jail, jobs, worker
from image_pull.layers.jobs import Exit, Hello, Job, Kill
from image_pull.layers.record import Jail

DESCRIPTORS: Final = 2
"""A job's: the data socket and the layer's root."""


def probe_jail() -> tuple[Jail, str]:
    """The best jail that a worker can have here, tried in a child, and why not the full one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _probe(writing)
    os.close(writing)
    try:
        why = os.read(reading, jobs.MAX_TEXT).decode("utf-8", "replace")
    finally:
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0 and not why:
        return Jail.FULL, ""
    why = why or f"the probe ended with status {status}"
    return (Jail.LANDLOCK if jail.landlock_version() else Jail.RESOLVER), why


def _probe(writing: int) -> NoReturn:
    status = 1
    try:
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        worker.enter_jail(root, Jail.FULL, os.getppid())
        status = 0
    except OSError as error:
        os.write(writing, str(error).encode())
    finally:
        os._exit(status)


class Server:
    """The loop of the unpack server."""

    __slots__ = ("_control", "_numbers", "_poller", "_walls", "_workers")

    def __init__(self, control: socket.socket, walls: Jail) -> None:
        """Wait for nothing yet.

        Args:
            control: the packet socket to the puller.
            walls: the jail of every worker.
        """
        self._control = control
        self._walls = walls
        self._workers: dict[int, tuple[int, int]] = {}
        self._numbers: dict[int, int] = {}
        self._poller = select.poll()

    def run(self) -> None:
        """Serve until the puller is gone."""
        self._poller.register(self._control, select.POLLIN)
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor != self._control.fileno():
                    self._reap(descriptor)
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, jobs.MAX_MESSAGE, DESCRIPTORS)
        if not data:
            return False
        try:
            match jobs.decode_request(data):
                case Job() as job if len(descriptors) == DESCRIPTORS:
                    self._start(job, descriptors[0], descriptors[1])
                case Kill(number=number) if number in self._numbers:
                    os.kill(self._workers[self._numbers[number]][1], signal.SIGKILL)
                case _:
                    pass
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _start(self, job: Job, connection: int, root: int) -> None:
        server = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            self._tell(Exit(number=job.number, status=1, why=str(error)))
            return
        if child == 0:
            worker.run_worker(job, connection, root, self._walls, server)
        watch = os.pidfd_open(child)
        self._workers[watch] = (job.number, child)
        self._numbers[job.number] = watch
        self._poller.register(watch, select.POLLIN)

    def _reap(self, watch: int) -> None:
        number, child = self._workers.pop(watch)
        del self._numbers[number]
        self._poller.unregister(watch)
        os.close(watch)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self._tell(Exit(number=number, status=status))

    def _tell(self, notice: Exit) -> None:
        self._control.send(jobs.encode(notice))


def main() -> int:
    """Run the server on the descriptor that the command line names."""
    control = socket.socket(fileno=int(sys.argv[1]))
    jail.harden()
    # the number 0, where the puller is outside this process's pid namespace
    jail.die_with(os.getppid())
    namespaces = jail.enter_namespaces()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    walls, why = probe_jail()
    gc.collect()
    gc.freeze()
    hello = Hello(jail=walls, why=why[: jobs.MAX_TEXT], namespaces=namespaces)
    try:
        control.send(jobs.encode(hello))
        Server(control, walls).run()
    except (BrokenPipeError, ConnectionResetError, DecodeError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
