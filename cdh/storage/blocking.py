"""Calls that wait for a device or a file system, each in a daemon thread of its own.

Source: CONTRIBUTING.md 8.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from guest.deadline import Deadline
from guest.errors import PlatformError

SETTLE_SECONDS: Final = 3.0
"""Seconds that a cancelled caller waits for the call to return, before it is left to itself."""

T = TypeVar("T")


async def run_blocking(work: Callable[[], T], what: str, deadline: Deadline) -> T:
    """The result of `work`; a caller that leaves waits a little until it is known what was done.

    Args:
        work: blocks; raises OSError or one of ours.
        what: names it in errors, as in `mount of x`.
        deadline: when it must have returned. The kernel cannot be made to.

    Raises:
        PlatformError: an OSError of `work`.
        DeadlineError: it did not return in time.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(_see)  # also when the caller left before it

    def give(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # None only beside an error
        else:
            future.set_exception(error)

    def serve() -> None:
        try:
            result, error = work(), None
        except BaseException as caught:  # noqa: BLE001  # handed to the caller
            result, error = None, caught
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(give, result, error)

    threading.Thread(target=serve, name=f"storage {what}"[:60], daemon=True).start()
    try:
        async with deadline.limit(what):
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                await asyncio.wait([future], timeout=SETTLE_SECONDS)
                raise
    except OSError as error:
        raise PlatformError(f"{what}: {error.strerror or error}") from error


def _see(future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        future.exception()
