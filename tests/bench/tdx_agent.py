"""The attestation agent's command on a simulated TDX guest, for `bench.agent`.

`python -m bench.tdx_agent DIRECTORY QUOTE_SECONDS ARGUMENT...`: below the directory are the guest's
files; `root.pem` is what its quotes are signed under, `lag` how long its event loop was away at
the longest, in seconds.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attestation_agent import main
from attestation_agent.component import AttestationAgent
from support.tdx_world import boot, hints_of, make_guest

PULSE: Final = 0.005
"""Seconds between two looks at the event loop."""


def watch(loop: asyncio.AbstractEventLoop, path: Path) -> None:
    """Write the longest time that the loop took to answer."""
    worst = 0.0
    while not loop.is_closed():
        answered = threading.Event()
        started = time.monotonic()
        loop.call_soon_threadsafe(answered.set)
        answered.wait()
        lag = time.monotonic() - started
        if lag > worst:
            worst = lag
            path.with_suffix(".new").write_text(f"{worst}\n")
            os.replace(path.with_suffix(".new"), path)
        time.sleep(PULSE)


def watched(run: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """The agent's `run`, its loop watched from when it is ready."""

    async def wrapper(self: AttestationAgent, *, ready: Any, stop: Any) -> None:
        loop = asyncio.get_running_loop()

        def tell() -> None:
            threading.Thread(target=watch, args=(loop, path), daemon=True).start()
            ready()

        await run(self, ready=tell, stop=stop)

    return wrapper


def serve() -> None:
    """Be the command."""
    root, seconds, *arguments = sys.argv[1:]
    directory = Path(root)
    guest = make_guest(directory, quote_seconds=float(seconds))
    boot(guest)
    (directory / "root.pem").write_bytes(guest.platform.root)
    changed: Any = main
    changed.read_hints = lambda environment: hints_of(guest)
    AttestationAgent.run = watched(AttestationAgent.run, directory / "lag")  # type: ignore[method-assign]  # the bench looks inside
    sys.argv[:] = ["attestation-agent", *arguments]
    main.main()


if __name__ == "__main__":
    serve()
