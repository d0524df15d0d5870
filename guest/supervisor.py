"""Runs the components of a process: start in order, signals, one drain, one exit status.

Source: CONTRIBUTING.md 8 "Processes"; docs/spec/attestation-agent.md 1.1, 1.6 and 1.7.
"""

import asyncio
import faulthandler
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn, Protocol

from guest.errors import GuestError, PlatformError, first_failure, foreign_text
from guest.process import harden

log = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

STOP_GRACE: Final = 10.0
"""Seconds that all components together may take to stop; each has 5 s for calls under way."""

STANDARD_ERROR: Final = 2
"""Its descriptor."""


class Component(Protocol):
    """One service of this process."""

    @property
    def name(self) -> str:
        """For logs and task names."""
        ...

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until `stop` is set, finish what is under way, return.

        Args:
            ready: called once, when it accepts and nothing can refuse to start any more.
            stop: set when the process is to end.

        Raises:
            GuestError: it cannot start, or cannot go on; the process ends with status 1.
        """
        ...


Build = Callable[[], Awaitable[Sequence[Component]]]


def main_loop(
    build: Build, *, program: str, notify_socket: str | None = None, fast_loop: bool = True
) -> NoReturn:
    """What a root ends in: build the components, run them, leave by `os._exit`.

    The first of SIGTERM, SIGINT and SIGHUP stops, with exit status 0; a second one ends the
    process at once. A start that fails says why in one line on standard error, status 1. A fault
    such as SIGSEGV writes there in which functions the threads were, and nothing of their values.

    Args:
        build: reads the configuration and constructs the components, in the order of start.
        program: name for messages.
        notify_socket: the environment's `NOTIFY_SOCKET`.
        fast_loop: use uvloop where it is installed.
    """
    status = 1
    try:
        harden()
        faulthandler.enable(STANDARD_ERROR)
        with asyncio.Runner(loop_factory=_loop_factory(fast_loop)) as runner:
            status = runner.run(_run(build, program, notify_socket))
            _leave(status)
    except GuestError as error:
        _say_failure(program, error)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    _leave(status)


async def run_components(
    components: Sequence[Component], *, stop: asyncio.Event, notify_socket: str | None = None
) -> None:
    """Start each component after the one before is ready; return when all have stopped.

    Args:
        components: in the order of start.
        stop: ends the run; set already, nothing is started.
        notify_socket: gets `READY=1` after the last is ready, `STOPPING=1` when `stop` is set.

    Raises:
        GuestError: the first component's failure; the others were cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[None]] = []
            for component in components:
                if stop.is_set():
                    break
                ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                run = _supervise(component, ready, stop)
                tasks.append(group.create_task(run, name=component.name))
                if not await ready:
                    break
            else:
                notify(notify_socket, "READY=1")
                log.info("ready", extra={"components": ",".join(c.name for c in components)})
            await stop.wait()
            notify(notify_socket, "STOPPING=1")
            await _wait_for_stop(tasks)
    except BaseExceptionGroup as failures:
        first = first_failure(failures)
        raise first from first.__cause__


async def _supervise(
    component: Component, ready: asyncio.Future[bool], stop: asyncio.Event
) -> None:
    """Run one component; `ready` gets whether it came to accept."""

    def accepts(value: bool) -> None:
        if not ready.done():
            ready.set_result(value)

    try:
        await component.run(ready=lambda: accepts(True), stop=stop)
    finally:
        accepts(False)
    if not stop.is_set():
        raise PlatformError(f"{component.name} ended by itself")


async def _wait_for_stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=STOP_GRACE)
    for task in late:
        log.warning("component did not stop in time", extra={"component": task.get_name()})
        task.cancel()


async def _run(build: Build, program: str, notify_socket: str | None) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def signalled(number: int) -> None:
        if stop.is_set():
            _leave(128 + number)
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, signalled, number)
    try:
        components = await build()
        await run_components(components, stop=stop, notify_socket=notify_socket)
    except GuestError as error:
        _say_failure(program, error)
        return 1
    except Exception as error:
        log.exception("unexpected failure")
        sys.stderr.write(f"{program}: {' '.join(foreign_text(error).split())}\n")
        return 1
    log.info("stopped")
    return 0


def _loop_factory(fast_loop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    if fast_loop and importlib.util.find_spec("uvloop") is not None:
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def notify(address: str | None, state: str) -> None:
    """Tell the service manager; its absence or deafness is no reason to stop.

    Args:
        address: a path, or an abstract name led by `@`; None tells nobody.
        state: `READY=1`, `STOPPING=1`, `STATUS=...`.
    """
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), target)
    except OSError as error:
        log.warning("service manager cannot be told", extra={"error": foreign_text(error)})


def _say_failure(program: str, error: GuestError) -> None:
    sys.stderr.write(f"{program}: {': '.join(error.causes())}\n")


def _leave(status: int) -> NoReturn:
    """End the process now: no destructor, no thread and no driver holds it back."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(status)
