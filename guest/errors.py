"""The taxonomy of failures: every error of this project that a caller may see. Sans-I/O.

Source: docs/ARCHITECTURE.md, decision 5 (errors keep their cause).
"""

from typing import ClassVar, TypeVar


class GuestError(Exception):
    """Base of all errors below; never raised itself.

    Attributes:
        code: short machine-readable name, lower case with hyphens; part of details, logs, metrics.
    """

    code: ClassVar[str] = "internal"

    def causes(self) -> tuple[str, ...]:
        """One line for this error and each it was raised from, outermost first, at most 16."""
        lines: list[str] = []
        error: BaseException | None = self
        while error is not None and len(lines) < 16:
            text = str(error) if isinstance(error, GuestError) else foreign_text(error)
            lines.append(" ".join(text.split()))
            error = error.__cause__
        return tuple(lines)


def foreign_text(error: BaseException) -> str:
    """What a library's or the system's error says, led by its class, in at most 300 characters."""
    return f"{type(error).__name__}: {error}"[:300]


Error = TypeVar("Error", bound=GuestError)


def retold(error: Error, text: str) -> Error:
    """The same error, its class and attributes, with another text; to be raised from the first."""
    again = type(error).__new__(type(error))
    again.args = (text,)
    again.__dict__.update(error.__dict__)
    return again


def first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error inside a group of a task group, groups within it opened.

    Raise it `from` its own `__cause__`: `from None` would cut the chain of causes.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class DecodeError(GuestError):
    """Bytes or text break their format; raised by sans-I/O code only, translated at the border."""

    code = "decode"


class InvalidInputError(GuestError):
    """The caller's request can never succeed."""

    code = "invalid-input"


class NotFoundError(GuestError):
    """There is no such thing."""

    code = "not-found"


class UnsupportedError(GuestError):
    """This guest does not have that ability."""

    code = "unsupported"


class UnauthenticatedError(GuestError):
    """Attestation failed, or its result was not accepted."""

    code = "unauthenticated"


class DeniedError(GuestError):
    """A policy said no; final, never retried."""

    code = "denied"


class IntegrityError(GuestError):
    """A digest, signature or tag does not match; never retried."""

    code = "integrity"


class PlatformError(GuestError):
    """Kernel, device or mount is not as needed."""

    code = "platform"


class PeerError(GuestError):
    """A peer broke its protocol, or failed without saying why."""

    code = "peer"


class UnavailableError(GuestError):
    """A peer cannot be reached now, or its connection was lost before the answer."""

    code = "unavailable"


class UnreachableError(UnavailableError):
    """No connection to the peer could be made, so nothing was sent."""

    code = "unreachable"


class DeadlineError(GuestError):
    """Time ran out."""

    code = "deadline"


class LimitError(GuestError):
    """A limit on size, count or concurrency was met."""

    code = "limit"


class ConfigError(GuestError):
    """The configuration is wrong; at start only, exit status 1."""

    code = "config"
