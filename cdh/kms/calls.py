"""Calls of key management services: when another attempt is worth it, and how errors begin."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, InvalidInputError, retold
from guest.http import is_transient
from guest.retry import Backoff, retry

CALL_SECONDS: Final = 15.0
"""Most seconds for one operation, all attempts together."""

BACKOFF: Final = Backoff(first=0.2, most=2.0, attempts=3)

T = TypeVar("T")


async def repeated(attempt: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
    """The outcome of the first attempt that nothing in passing spoils: all may be repeated.

    Raises:
        GuestError: the last attempt's error.
    """
    return await retry(attempt, deadline=deadline, is_transient=is_transient, backoff=BACKOFF)


async def worded(service: str, call: Callable[[], Awaitable[T]]) -> T:
    """The call's outcome, its errors led by the service's name.

    Args:
        service: stands before `error: `.
        call: raises `DecodeError` where settings or annotations are wrong.

    Raises:
        GuestError: what the call raised, of the same class; `InvalidInputError` for `DecodeError`.
    """
    try:
        return await call()
    except DecodeError as error:
        raise refused(service, error) from error.__cause__
    except GuestError as error:
        raise retold(error, f"{service} error: {error}") from error.__cause__


def refused(service: str, error: DecodeError) -> InvalidInputError:
    """The error for settings that a service cannot make anything of."""
    return InvalidInputError(f"{service} error: {error}")
