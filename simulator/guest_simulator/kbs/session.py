"""Sessions, the version rule and the `auth` request.

Source: docs/spec/kbs-protocol.md §3.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.cookies import CookieError, SimpleCookie
from typing import Final

from guest_simulator.encoding import EncodingError, parse_object, text_member
from guest_simulator.kbs.evidence import TEES
from guest_simulator.kbs.failures import auth_failed

COOKIE: Final = "kbs-session-id"
PROTOCOL_VERSION: Final = "0.4.0"

_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_LABELS: Final = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
SEMVER: Final = re.compile(rf"({_NUMBER}\.{_NUMBER}\.{_NUMBER})(-{_LABELS})?(?:\+{_LABELS})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRequest:
    """The body of `auth`.

    Attributes:
        offers_algorithms: whether `supported-hash-algorithms` is there.
    """

    tee: str
    offers_algorithms: bool


def parse_auth(body: bytes) -> AuthRequest:
    """Judge the body of `auth`.

    Raises:
        KbsFailure: it does not parse, or its version is not ours.
    """
    try:
        message = parse_object(body)
        version, tee = text_member(message, "version"), text_member(message, "tee")
    except EncodingError as error:
        raise auth_failed("deserialize Request") from error
    if "extra-params" not in message or tee not in TEES:
        raise auth_failed("deserialize Request")
    check_version(version)
    extra = message["extra-params"]
    offers = isinstance(extra, Mapping) and "supported-hash-algorithms" in extra
    return AuthRequest(tee=tee, offers_algorithms=offers)


def check_version(version: str) -> None:
    """Accept 0.4.0, with any build metadata, and nothing else.

    Raises:
        KbsFailure: no semantic version, or another one.
    """
    match = SEMVER.match(version)
    if match is None:
        raise auth_failed("failed to parse KBS version")
    if match[1] != PROTOCOL_VERSION or match[2]:
        raise auth_failed(
            "KBS Client Protocol Version Mismatch: expect ="
            f"{PROTOCOL_VERSION} while the request is {version}"
        )


@dataclass(slots=True, kw_only=True)
class Session:
    """One handshake.

    Attributes:
        expires: seconds since the epoch.
        token: set once attested.
    """

    identity: str
    tee: str
    nonce: str
    expires: float
    algorithm: str | None = None
    token: str | None = None

    def cookie(self) -> str:
        """The `Set-Cookie` value: name, value and expiry, nothing else."""
        expires = format_datetime(datetime.fromtimestamp(int(self.expires), UTC), usegmt=True)
        return f"{COOKIE}={self.identity}; Expires={expires}"


class Sessions:
    """The sessions of one server; an expired one is deleted when it is looked up."""

    def __init__(self) -> None:
        self._by_identity: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_identity)

    def add(self, session: Session) -> None:
        """Store one."""
        self._by_identity[session.identity] = session

    def find(self, cookie_header: str, now: float) -> Session | None:
        """The live session that a `Cookie` header names."""
        identity = cookie_value(cookie_header)
        session = self._by_identity.get(identity)
        if session is not None and session.expires <= now:
            del self._by_identity[identity]
            return None
        return session

    def sweep(self, now: float) -> None:
        """Delete what has expired."""
        gone = [key for key, session in self._by_identity.items() if session.expires <= now]
        for key in gone:
            del self._by_identity[key]

    def clear(self) -> None:
        """Forget all, as a restarted server does."""
        self._by_identity.clear()


def cookie_value(header: str) -> str:
    """The session id in a `Cookie` header, or an empty text."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
