"""Calls of key management services: when another attempt is worth it, and how errors begin."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from guest.errors import DecodeError, GuestError, InvalidInputError, UnavailableError, retold
from guest.http import CertificateError
from guest.retry import Backoff

CALL_SECONDS: Final = 15.0
"""Most seconds for one operation, all attempts together."""

BACKOFF: Final = Backoff(first=0.2, most=2.0, attempts=3)

T = TypeVar("T")


def is_transient(error: GuestError) -> bool:
    """Whether another attempt may go better: every operation may be repeated."""
    return isinstance(error, UnavailableError) and not isinstance(error, CertificateError)


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
