"""Status codes of ttRPC and gRPC, and which error becomes which. Sans-I/O.

Source: docs/spec/ttrpc.md 3; CONTRIBUTING.md 6.
"""

from enum import IntEnum
from typing import Final

import msgspec

from guest.errors import (
    DeadlineError,
    DecodeError,
    DeniedError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PeerError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from guest.protos.detail_pb2 import ErrorDetail

DETAIL_TYPE_URL: Final = "type.googleapis.com/coco.guest.ErrorDetail"
"""Names our detail inside `Status.details`."""

MAX_DETAIL_CAUSE: Final = 500
"""Longest cause in a detail, in characters."""


class Code(IntEnum):
    """A status code; the same numbers in ttRPC and gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_CODES: Final[tuple[tuple[type[GuestError], Code], ...]] = (
    (InvalidInputError, Code.INVALID_ARGUMENT),
    (NotFoundError, Code.NOT_FOUND),
    (UnsupportedError, Code.UNIMPLEMENTED),
    (UnauthenticatedError, Code.UNAUTHENTICATED),
    (DeniedError, Code.PERMISSION_DENIED),
    (IntegrityError, Code.DATA_LOSS),
    (PlatformError, Code.FAILED_PRECONDITION),
    (UnavailableError, Code.UNAVAILABLE),
    (DeadlineError, Code.DEADLINE_EXCEEDED),
    (LimitError, Code.RESOURCE_EXHAUSTED),
    (DecodeError, Code.INVALID_ARGUMENT),
    (PeerError, Code.INTERNAL),
)


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a call that is not a success.

    Attributes:
        code: never OK.
        message: the text that peers see and may match.
        detail: our own member of `Status.details`, or None (a foreign server sends none).
    """

    code: int
    message: str
    detail: ErrorDetail | None = None


class StatusError(GuestError):
    """A failure whose code and text on the wire are decided: raised by edges and transports."""

    code = "status"

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def code_of(error: GuestError) -> Code:
    """The exact status of an error, before compatibility makes it INTERNAL."""
    if isinstance(error, StatusError):
        known = error.status.code in Code.__members__.values()
        return Code(error.status.code) if known else Code.UNKNOWN
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def status_of(error: GuestError, text: str, *, exact: bool = False) -> Status:
    """What a handler's failure is on the wire.

    Args:
        error: the failure; its chain of causes goes to the detail.
        text: the specification's fixed text for the method.
        exact: send the exact code (`rpc.exact_status = true`); otherwise INTERNAL, except that
            DEADLINE_EXCEEDED keeps its code in both.
    """
    code = code_of(error)
    detail = ErrorDetail(
        code=error.code,
        status=code,
        causes=[cause[:MAX_DETAIL_CAUSE] for cause in error.causes()],
    )
    shown = code if exact or code is Code.DEADLINE_EXCEEDED else Code.INTERNAL
    return Status(code=shown, message=text, detail=detail)


def error_of(status: Status) -> GuestError:
    """The error that a client raises for a status: its class is the exact one where it is known.

    A status of a foreign server, which has no detail, gives the class of its code, and INTERNAL
    and everything without a class of its own give `PeerError`.
    """
    detail = status.detail
    code = detail.status if detail is not None else status.code
    kind = next((kind for kind, known in _CODES if known == code), PeerError)
    causes = list(detail.causes) if detail is not None else []
    inner = ": ".join(cause for cause in causes if cause not in status.message)
    return kind(f"{status.message}: {inner}" if inner else status.message)
