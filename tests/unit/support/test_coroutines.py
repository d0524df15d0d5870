"""The coroutine runner: what it lets pass and what it fails."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import coroutines


async def test_a_coroutine_test_runs_and_gets_its_fixtures(short_tmp: object) -> None:
    await asyncio.sleep(0)
    assert short_tmp is not None


@given(st.integers())
async def test_a_coroutine_test_runs_under_hypothesis(number: int) -> None:
    await asyncio.sleep(0)
    assert number == int(str(number))


def test_a_task_left_behind_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroutines, "GRACE", 0.01)
    kept: list[asyncio.Future[None]] = []

    async def body() -> None:
        kept.append(asyncio.ensure_future(asyncio.sleep(600)))

    with pytest.raises(pytest.fail.Exception, match="tasks left behind"):
        coroutines._as_function(body, 60.0, False)()


def test_a_task_that_is_ending_may_end() -> None:
    kept: list[asyncio.Future[None]] = []

    async def body() -> None:
        kept.append(asyncio.ensure_future(asyncio.sleep(0)))

    coroutines._as_function(body, 60.0, False)()
    assert kept[0].done()


def test_a_blocked_loop_fails_the_test_unless_it_is_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coroutines, "BLOCKED_CPU", 0.02)

    async def body() -> None:
        ends = time.thread_time() + 0.1
        while time.thread_time() < ends:
            pass

    with pytest.raises(pytest.fail.Exception, match="the loop was blocked"):
        coroutines._as_function(body, 60.0, False)()
    coroutines._as_function(body, 60.0, True)()


def test_a_coroutine_that_never_ends_meets_its_limit() -> None:
    async def body() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        coroutines._as_function(body, 0.05, False)()
