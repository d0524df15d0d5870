"""Runs a command that does one thing and ends: its result, its failure, its interruption.

The result goes to standard output and nothing else does; a failure is one line on standard error
and exit status 1.

Source: docs/spec/attestation-agent.md 1.3, 1.4 and 1.4a.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from guest import log
from guest.errors import GuestError
from guest.process import harden

MAX_TEXT: Final = 4000
"""Most characters of one error with its causes."""

FAILED: Final = 1

Work = Callable[[Mapping[str, str]], Awaitable[str]]
"""Takes the environment. What it does before it gives the awaitable happens outside a loop, where
a signal ends it at once: waiting for standard input, for one."""


def finish(program: str, work: Work, environment: Mapping[str, str], *, level: str = "warn") -> int:
    """Run to the end and print what came of it; gives the exit status.

    Args:
        program: begins the line of a failure.
        work: gives the text for standard output; the empty text prints nothing.
        environment: of this process.
        level: of the log, unless `RUST_LOG` is set.
    """
    harden()
    try:
        log.configure(level, rust_log=environment.get("RUST_LOG"))
        result = asyncio.run(_interruptible(work(environment)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return _fail(program, "interrupted")
    except GuestError as error:
        return _fail(program, explain(error))
    return _print(program, result)


def explain(error: GuestError) -> str:
    """The error's text and its causes, as far as they say more, in one line."""
    text, *causes = error.causes()
    for cause in causes:
        if cause and cause not in text:
            text += f": {cause}"
    return text[:MAX_TEXT]


async def _interruptible(work: Awaitable[str]) -> str:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await work


def _print(program: str, result: str) -> int:
    try:
        if result:
            sys.stdout.write(f"{result}\n")
            sys.stdout.flush()
    except OSError as error:
        # What is still buffered would be tried again, and told with a traceback, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(program, f"standard output cannot be written: {os.strerror(error.errno or 0)}")
    return 0


def _fail(program: str, text: str) -> int:
    sys.stderr.write(f"{program}: {text}\n")
    return FAILED
