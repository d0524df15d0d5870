"""Makes ready what the first requests need before they come, while there is nothing else to do.

A request that comes earlier imports for itself, as it would without this, and waits for one
module at most that is being imported here. The thread is not niced: it has the interpreter's lock
now and then, and a request would have to wait until the system lets it run again.

Source: docs/adr/0003-pull-speed.md.
"""

import asyncio
import importlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from guest.errors import foreign_text

log = logging.getLogger(__name__)

HTTP: Final = (
    "email.policy",
    "urllib.request",
    "http.cookies",
    "multidict",
    "yarl",
    "attr",
    "aiosignal",
    "aiohappyeyeballs",
    "guest.aiohttp_import",
    "guest.http_roots",
    "guest.http_idle",
    "encodings.idna",
)
"""What the first request of an `HttpClient` imports: aiohttp, in pieces where it has some, and what
uses it."""


class Quiet(msgspec.Struct, frozen=True):
    """A time in which the process does nothing.

    Attributes:
        seconds: how long.
        cpu: CPU seconds of the process that are nothing all the same.
    """

    seconds: float
    cpu: float

    async def is_now(self) -> bool:
        """Look for as long."""
        before = time.process_time()
        await asyncio.sleep(self.seconds)
        return time.process_time() - before <= self.cpu


IDLE: Final = Quiet(seconds=1.0, cpu=0.05)
"""What there must have been before the first import, and before the next after a request."""

PAUSE: Final = Quiet(seconds=0.02, cpu=0.008)
"""Between two imports: a request that came meanwhile shows in it."""


class WarmUp:
    """A component that is ready at once, then imports modules and prepares more; never fails.

    Give it last, so that everything else is ready, and the service manager told, before it begins.
    """

    name: Final = "warm-up"

    def __init__(
        self,
        modules: Sequence[str],
        prepare: Callable[[], Awaitable[None]] | None = None,
        *,
        idle: Quiet = IDLE,
        pause: Quiet = PAUSE,
    ) -> None:
        """Touch nothing yet.

        Args:
            modules: full names in the order of import; what is there already costs nothing.
            prepare: called when all are there and it is quiet; a request says why it failed.
            idle: when to begin.
            pause: between two modules.
        """
        self._modules = tuple(modules)
        self._prepare = prepare
        self._idle = idle
        self._pause = pause

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Be ready, import and prepare when it is quiet, and wait for `stop`."""
        ready()
        async with asyncio.TaskGroup() as tasks:
            warming = tasks.create_task(self._warm_up(), name="warm-up")
            await stop.wait()
            warming.cancel()

    async def _warm_up(self) -> None:
        quiet = False
        for name in self._modules:
            if not quiet:
                quiet = await self._until_idle()
            if name not in sys.modules:
                await asyncio.to_thread(_import, name)
                quiet = await self._pause.is_now()
        if self._prepare is not None:
            if not quiet:
                await self._until_idle()
            await _attempt(self._prepare)
        log.debug("ready for the first requests", extra={"modules": len(self._modules)})

    async def _until_idle(self) -> bool:
        while not await self._idle.is_now():
            pass
        return True


async def _attempt(prepare: Callable[[], Awaitable[None]]) -> None:
    try:
        await prepare()
    except Exception as error:  # noqa: BLE001  # a daemon does not end of what it need not do yet
        extra = {"error": foreign_text(error)}
        log.debug("what the first requests need cannot be prepared beforehand", extra=extra)


def _import(name: str) -> None:
    """Import a module; a request that needs it says what is wrong with it."""
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  # a module may do anything as it is imported
        extra = {"import": name, "error": foreign_text(error)}
        log.debug("a module cannot be imported beforehand", extra=extra)
