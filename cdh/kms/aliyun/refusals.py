"""What the refusals of Alibaba Cloud mean here. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.2 and 8.3.
"""

import re
from typing import Final

from guest.errors import (
    DeniedError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)

TRANSIENT_CODES: Final = frozenset(
    {"Rejected.Throttling", "ServiceUnavailableTemporary", "InternalFailure"}
)
"""Codes after which the vendor's own client tries again."""

TRANSIENT_STATUSES: Final = frozenset({429, 502, 503, 504})

MAX_SHOWN: Final = 200
"""Most characters of a peer's text that an error repeats."""

_UNSPEAKABLE: Final = re.compile(r"[^ -~]+")
_QUOTED_REQUEST: Final = re.compile(r"\s*\S*\s*string to sign.*", re.IGNORECASE | re.DOTALL)
_KEY_CODES: Final = ("AccessKey", "SecurityToken", "SignatureDoesNotMatch")
"""Parts of the codes that refuse who asks, not what is asked."""


def refusal(*, status: int, code: str, message: str, request_id: str) -> GuestError:
    """The error for a refusal whose reason the service gave.

    Args:
        status: of HTTP.
        code: dotted words.
        message: for people. A service that finds a wrong signature repeats the request in it,
            token and all: that part is cut off.
        request_id: for the vendor's support.
    """
    shown = _QUOTED_REQUEST.sub("", message)
    text = (
        f"status code: {status}, request id: {_clean(request_id)}, "
        f"error code: {_clean(code)}, message: {_clean(shown)}"
    )
    if code in TRANSIENT_CODES or code.startswith("Throttling") or status in TRANSIENT_STATUSES:
        return UnavailableError(text)
    if status == 401 or any(part in code for part in _KEY_CODES):
        return UnauthenticatedError(text)
    if status == 404 or code.endswith("NotFound"):
        return NotFoundError(text)
    if status == 403:
        return DeniedError(text)
    if 400 <= status < 500:
        return InvalidInputError(text)
    return PeerError(text)


def foreign_answer(status: int, body: bytes) -> GuestError:
    """The error for an answer that is not the service's: a proxy's page, a cut body.

    Its text has the beginning of what came, unless that is an answer of success, which may hold a
    secret.
    """
    text = f"unexpected answer with HTTP status {status}"
    if not 200 <= status < 300:
        text = f"{text}: {_clean(body[:MAX_SHOWN].decode('ascii', 'replace'))}"
    if status in TRANSIENT_STATUSES:
        return UnavailableError(text)
    return PeerError(text)


def _clean(text: str) -> str:
    return _UNSPEAKABLE.sub(" ", text)[:MAX_SHOWN].strip()
