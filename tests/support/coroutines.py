"""Runs `async def` tests: one loop each, a time limit, nothing left behind, nothing blocked."""

import asyncio
import functools
import gc
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

TIME_LIMIT: Final = 60.0
"""Seconds a coroutine test may take; `@pytest.mark.timeout(n)` changes it for one test."""

BLOCKED_CPU: Final = 1.0
"""Seconds of CPU that one callback may take on the loop's thread.

The rule of the project is 50 ms; this is what can be asserted on two busy cores. A test that
generates keys on the loop is marked `blocks_loop`.
"""

BLOCKED_WALL: Final = 10.0
"""Seconds of wall time that one callback may take."""

SLOWNESS: Final = float(os.environ.get("TEST_MACHINE_SLOWNESS") or 1)
"""What these limits are multiplied by; an emulated machine sets it (podvm-image/vm-test/init)."""

GRACE: Final = 1.0
"""Seconds after the test's end in which tasks that are already ending may end."""


def pytest_collection_finish() -> None:
    """Keep thousands of collected tests out of the collector's way: a pass must not hold a loop."""
    gc.collect()
    gc.freeze()


TestBody = Callable[..., Awaitable[object]]


@contextmanager
def _watch_callbacks() -> Iterator[list[str]]:
    """Collect the callbacks that held the loop; works for asyncio's own loop only."""
    held: list[str] = []
    original = asyncio.Handle._run

    def run(self: asyncio.Handle) -> None:
        wall, cpu = time.monotonic(), time.thread_time()
        try:
            original(self)
        finally:
            wall, cpu = time.monotonic() - wall, time.thread_time() - cpu
            if cpu > BLOCKED_CPU * SLOWNESS or wall > BLOCKED_WALL * SLOWNESS:
                held.append(f"{self!r}: {wall:.2f} s, {cpu:.2f} s of CPU")

    asyncio.Handle._run = run  # type: ignore[method-assign]  # no public hook sees callbacks
    try:
        yield held
    finally:
        asyncio.Handle._run = original  # type: ignore[method-assign]  # put back


async def _run_limited(body: TestBody, kwargs: dict[str, object], limit: float) -> list[str]:
    """Run the body; give the names of tasks that outlive it by `GRACE`."""
    async with asyncio.timeout(limit):
        await body(**kwargs)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=GRACE)
    return [repr(task) for task in others if not task.done()]


def _as_function(body: TestBody, limit: float, may_block: bool) -> Callable[..., None]:
    @functools.wraps(body)
    def run(**kwargs: object) -> None:
        with _watch_callbacks() as held:
            left = asyncio.run(_run_limited(body, kwargs, limit))
        if left:
            pytest.fail("tasks left behind:\n" + "\n".join(left), pytrace=False)
        if held and not may_block:
            pytest.fail("the loop was blocked:\n" + "\n".join(held), pytrace=False)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test; leave the others to pytest."""
    marker = pyfuncitem.get_closest_marker("timeout")
    limit = float(marker.args[0]) if marker is not None and marker.args else TIME_LIMIT
    limit *= SLOWNESS
    may_block = pyfuncitem.get_closest_marker("blocks_loop") is not None
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is not None:
        if asyncio.iscoroutinefunction(handle.inner_test):
            handle.inner_test = _as_function(handle.inner_test, limit, may_block)
        return None
    if not asyncio.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    _as_function(pyfuncitem.obj, limit, may_block)(**arguments)
    return True
