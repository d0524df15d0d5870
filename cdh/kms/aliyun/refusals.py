"""What the refusals of Alibaba Cloud mean here. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.2 and 8.3.
"""

import re
from typing import Final

from cdh.kms.answers import TRANSIENT_STATUSES, shown
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
    told = _QUOTED_REQUEST.sub("", message)
    text = (
        f"status code: {status}, request id: {shown(request_id)}, "
        f"error code: {shown(code)}, message: {shown(told)}"
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
