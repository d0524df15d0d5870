"""Child processes that end with this one: machines, and what stands in for their hardware."""

import asyncio
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, TypeVar

from podvm.errors import ImageError

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SETPRIV: Final = "/usr/bin/setpriv"
_T = TypeVar("_T")


def start(
    words: Sequence[str], *, stdout: int | None = None, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills as soon as the calling thread is gone, however it ends.

    Args:
        words: program and arguments.
        stdout: as of `subprocess.Popen`.
        stderr: the same.

    Raises:
        ImageError: it is not installed, or setpriv is not.
    """
    program = shutil.which(words[0])
    if program is None:
        raise ImageError(f"{words[0]} is not installed")
    try:
        return subprocess.Popen(
            [_SETPRIV, "--pdeathsig", "KILL", "--", program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    except FileNotFoundError as error:
        raise ImageError("setpriv is not installed (Debian package util-linux)") from error


async def in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run work in a thread; cancelled, tell the thread to stop and wait until it has.

    Args:
        work: ends soon once its event is set.
    """
    stop = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, stop)
    try:
        return await asyncio.shield(running)
    finally:
        stop.set()
        await asyncio.wait([running])
        running.exception()  # when this was cancelled, nobody else asks for it


def run_until_signal(work: Coroutine[object, object, _T]) -> _T:
    """Run to the end; the first SIGTERM, SIGINT or SIGHUP cancels it, the second one kills.

    Args:
        work: what it starts ends with it when it is cancelled.

    Raises:
        SystemExit: 128 and the number of the signal, after everything was unwound.
    """
    caught: list[signal.Signals] = []

    async def watched() -> _T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def stop(number: signal.Signals) -> None:
            for each in SIGNALS:
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)
            caught.append(number)
            task.cancel()

        for number in SIGNALS:
            loop.add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if not caught:
            raise
        raise SystemExit(128 + caught[0]) from None
