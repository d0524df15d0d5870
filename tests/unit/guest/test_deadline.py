"""A deadline bounds a block, and nothing but its own end becomes its error."""

import asyncio
import math

import pytest

from guest.deadline import Deadline, boot_seconds
from guest.errors import DeadlineError, NotFoundError


async def wait(deadline: Deadline, ended: list[str], error: Exception | None = None) -> None:
    """Wait inside a limit; say that the end was seen, or end with an error of one's own."""
    async with deadline.limit("the thing"):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")
            if error is not None:
                raise error


async def test_a_block_that_is_not_done_in_time_is_cancelled_and_named() -> None:
    ended: list[str] = []
    with pytest.raises(DeadlineError, match="no time left for the thing") as caught:
        await wait(Deadline.after(0.01), ended)
    assert ended == ["ended"]
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_a_deadline_that_has_passed_lets_nothing_wait() -> None:
    with pytest.raises(DeadlineError):
        async with Deadline.after(-1).limit("the thing"):
            await asyncio.Event().wait()


async def test_other_errors_pass_through_also_a_time_out_of_the_block_s_own() -> None:
    for error in (NotFoundError("x"), TimeoutError("a socket's"), ValueError("bug")):
        with pytest.raises(type(error)) as caught:
            async with Deadline.after(30).limit("the thing"):
                raise error
        assert caught.value is error


async def test_a_time_out_inside_a_block_whose_time_is_over_is_the_deadline_s() -> None:
    with pytest.raises(DeadlineError, match="the thing"):
        await wait(Deadline.after(0.01), [], TimeoutError("late"))


async def test_a_caller_s_cancellation_passes_through() -> None:
    async def work() -> None:
        async with Deadline.after(30).limit("the thing"):
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


async def test_limits_nest_and_the_one_that_passed_is_named() -> None:
    with pytest.raises(DeadlineError, match="inner"):
        async with Deadline.after(30).limit("outer"), Deadline.after(0.01).limit("inner"):
            await asyncio.Event().wait()
    with pytest.raises(DeadlineError, match="outer"):
        async with Deadline.after(0.01).limit("outer"), Deadline.after(30).limit("inner"):
            await asyncio.Event().wait()


async def test_an_unlimited_deadline_bounds_nothing_and_is_never_over() -> None:
    deadline = Deadline.unlimited()
    async with deadline.limit("the thing"):
        await asyncio.sleep(0)
    assert not deadline.is_over()
    assert math.isinf(deadline.remaining())
    assert deadline.within(5).at <= boot_seconds() + 5


def test_what_is_left_is_never_negative_and_an_inner_call_gets_less() -> None:
    assert Deadline.after(-5).remaining() == 0.0
    assert Deadline.after(-5).is_over()
    deadline = Deadline.after(10)
    assert deadline.for_inner_call().at == deadline.at - 0.5
