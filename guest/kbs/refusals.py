"""What a KBS's refusal means: which error it is and whether attesting again may help. Sans-I/O.

Trustee answers 401 to nearly everything; the kind in the body's `type` tells an expired session
from a policy's no. A denial is final.

Source: docs/spec/kbs-protocol.md sections 8 and 10.4; docs/spec/attestation-agent.md 5.4.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from guest.errors import (
    DeniedError,
    GuestError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from guest.kbs.messages import ErrorInformation, find_error_information

_TRANSIENT_STATUSES: Final = frozenset({408, 429})
_UNATTESTED_KINDS: Final = frozenset({"TokenNotFound", "TokenVerifierError", "AttestationError"})
_DENIED_KINDS: Final = frozenset({"PolicyDeny", "AdminAuthAccess", "AdminAuthInitialization"})
_ABSENT_KINDS: Final = frozenset({"PluginNotFound", "InvalidRequestPath"})
_VERSION_MISMATCH: Final = "KBS Client Protocol Version Mismatch"
MAX_TEXT_LENGTH: Final = 300
"""Characters of a peer's text that an error message repeats."""


class Remedy(Enum):
    """What may help."""

    NONE = auto()
    """Nothing: asking again gives the same answer."""
    ATTEST = auto()
    """Another attestation, once."""
    WAIT = auto()
    """The same request a little later, or at another address of the same Trustee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is not 200.

    Attributes:
        error: to be raised; carries status or kind, and the server's text.
        remedy: what may help.
    """

    error: GuestError
    remedy: Remedy


def judge_resource(status: int, body: bytes) -> Refusal:
    """Judge the answer to a resource request.

    A body that is no error of a KBS is not repeated: it may be what was asked for.
    """
    information = find_error_information(body)
    said = _said(status, b"", information)
    if _is_transient(status):
        return Refusal(error=UnavailableError(f"KBS internal error: {said}"), remedy=Remedy.WAIT)
    if status == 404:
        return Refusal(error=NotFoundError(f"KBS resource not found: {said}"), remedy=Remedy.NONE)
    if status != 401:
        return Refusal(error=PeerError(f"KBS internal error: {said}"), remedy=Remedy.NONE)
    if information is None or information.kind in _UNATTESTED_KINDS:
        error = UnauthenticatedError(f"request unauthorized: {said}")
        return Refusal(error=error, remedy=Remedy.ATTEST)
    return Refusal(error=_final(information, said), remedy=Remedy.NONE)


def judge_handshake(status: int, body: bytes) -> Refusal:
    """Judge the answer to `auth` or `attest`."""
    information = find_error_information(body)
    said = _said(status, body, information)
    if _is_transient(status):
        return Refusal(error=UnavailableError(f"KBS internal error: {said}"), remedy=Remedy.WAIT)
    if information is not None and _VERSION_MISMATCH in information.detail:
        return Refusal(error=UnsupportedError(said), remedy=Remedy.NONE)
    if status != 401:
        kind = NotFoundError if status == 404 else PeerError
        return Refusal(error=kind(f"KBS internal error: {said}"), remedy=Remedy.NONE)
    return Refusal(error=UnauthenticatedError(said), remedy=Remedy.ATTEST)


def _is_transient(status: int) -> bool:
    return status >= 500 or status in _TRANSIENT_STATUSES


def _final(information: ErrorInformation, said: str) -> GuestError:
    if information.kind in _DENIED_KINDS:
        return DeniedError(f"request unauthorized: {said}")
    if information.kind in _ABSENT_KINDS:
        return NotFoundError(f"KBS resource not found: {said}")
    # A missing resource is among these: Trustee does not tell it from a failing back end.
    return PeerError(f"KBS internal error: {said}")


def _said(status: int, body: bytes, information: ErrorInformation | None) -> str:
    if information is not None:
        return f"{_line(information.kind)}: {_line(information.detail)} (status {status})"
    text = _line(body[:MAX_TEXT_LENGTH].decode("utf-8", "replace"))
    return f"status {status}: {text}" if text else f"status {status}"


def _line(text: str) -> str:
    """One printable line, shortened."""
    line = " ".join(text[:MAX_TEXT_LENGTH].split())
    return "".join(character if character.isprintable() else "?" for character in line)
