"""guest/retry.py: growing waits, a number of attempts, and never past the deadline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, UnavailableError
from guest.retry import Backoff, retry

QUICK = Backoff(first=0.001, most=0.002, attempts=3)


def _is_transient(error: GuestError) -> bool:
    return isinstance(error, UnavailableError)


class _Failing:
    def __init__(self, *errors: GuestError) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_a_transient_failure_is_tried_again() -> None:
    operation = _Failing(UnavailableError("1"), UnavailableError("2"))
    deadline = Deadline.after(30)
    done = await retry(operation, deadline=deadline, is_transient=_is_transient, backoff=QUICK)
    assert (done, operation.calls) == ("done", 3)


async def test_the_last_error_comes_out_when_attempts_run_out() -> None:
    operation = _Failing(*(UnavailableError(str(n)) for n in range(9)))
    with pytest.raises(UnavailableError, match="2"):
        await retry(
            operation, deadline=Deadline.after(30), is_transient=_is_transient, backoff=QUICK
        )
    assert operation.calls == 3


async def test_a_final_error_is_not_tried_again() -> None:
    operation = _Failing(DeniedError("no"))
    with pytest.raises(DeniedError):
        await retry(
            operation, deadline=Deadline.after(30), is_transient=_is_transient, backoff=QUICK
        )
    assert operation.calls == 1


async def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    operation = _Failing(UnavailableError("the cause"))
    slow = Backoff(first=1000, most=1000)
    with pytest.raises(UnavailableError, match="the cause"):
        await retry(operation, deadline=Deadline.after(5), is_transient=_is_transient, backoff=slow)
    assert operation.calls == 1


@given(st.integers(1, 60))
def test_a_wait_grows_up_to_its_limit_and_jitter_only_shortens_it(attempt: int) -> None:
    backoff = Backoff(first=0.5, most=8, jitter=0.4)
    longest = min(8.0, 0.5 * 2 ** (attempt - 1))
    assert longest * 0.6 <= backoff.delay(attempt) <= longest
