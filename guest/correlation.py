"""The id that one request keeps: in each service's log, in failure details, at the KBS.

A call takes the id that its caller sent along, or gets one; what the call logs and asks of others
carries it.

Source: docs/ARCHITECTURE.md, decision 5.
"""

import re
import secrets
from contextvars import ContextVar
from typing import Final

KEY: Final = "x-request-id"
"""Key in the metadata of calls."""

HEADER: Final = "X-Request-Id"
"""Header of HTTP requests to the KBS."""

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_CURRENT: Final[ContextVar[str | None]] = ContextVar("correlation", default=None)


def choose(metadata: tuple[tuple[str, str], ...]) -> str:
    """The id that the caller sent, or a new one where it sent none that is printable and short."""
    for key, value in metadata:
        if key == KEY and _ID.fullmatch(value):
            return value
    return secrets.token_hex(8)


def enter(identity: str) -> None:
    """Everything that this task does from here on belongs to the request of that id."""
    _CURRENT.set(identity)


def current() -> str | None:
    """The id of the request that this task works for; None outside of any."""
    return _CURRENT.get()


def metadata() -> tuple[tuple[str, str], ...]:
    """What calls to other services send along."""
    identity = _CURRENT.get()
    return () if identity is None else ((KEY, identity),)


def headers() -> tuple[tuple[str, str], ...]:
    """What HTTP requests to the KBS carry."""
    identity = _CURRENT.get()
    return () if identity is None else ((HEADER, identity),)
