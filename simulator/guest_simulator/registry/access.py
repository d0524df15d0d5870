"""Who may pull and push: nobody asked, a password, or a token from a token service.

Source: OCI distribution specification; the Docker token authentication specification;
docs/spec/image-pull.md §5.
"""

import base64
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl

from guest_simulator.clock import Clock

SCOPE: Final = re.compile(r"repository:([^:]+):([a-z,*]+)\Z")
SERVICE: Final = "guest-simulator"


class Mode(StrEnum):
    """What a registry asks for."""

    NONE = "none"
    BASIC = "basic"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token allows: `repository:action` pairs, until a time."""

    scopes: frozenset[str]
    expires: float


@dataclass(slots=True, kw_only=True)
class Access:
    """The rules of one registry; change them at any time.

    Attributes:
        users: passwords by name.
        anonymous_pull: with `BEARER`, hand pull tokens to everybody.
        token_seconds: life of a bearer token.
        refresh_tokens: password-like tokens for the OAuth2 form of the token service.
        clock: dates tokens.
        issued: how many tokens were given.
    """

    mode: Mode = Mode.NONE
    users: Mapping[str, str] = field(default_factory=dict)
    anonymous_pull: bool = False
    token_seconds: float = 300.0
    refresh_tokens: frozenset[str] = frozenset()
    clock: Clock = field(default_factory=Clock)
    issued: int = 0
    _grants: dict[str, Grant] = field(default_factory=dict)

    def is_allowed(self, authorization: str, name: str, action: str) -> bool:
        """Whether a request may do `pull`, `push` or `delete` in a repository.

        Args:
            authorization: the header, empty when absent.
            name: repository, empty for `/v2/` itself.
            action: what it wants.
        """
        match self.mode:
            case Mode.NONE:
                return True
            case Mode.BASIC:
                return self.is_user(authorization)
            case Mode.BEARER:
                return self._has_grant(authorization, name, action)

    def is_user(self, authorization: str) -> bool:
        """Whether a `Basic` header holds a name and its password."""
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode()
        except ValueError:
            return False
        user, _, password = text.partition(":")
        return self.is_password(user, password)

    def is_password(self, user: str, password: str) -> bool:
        """Whether this is the user's password."""
        wanted = self.users.get(user)
        return wanted is not None and secrets.compare_digest(wanted.encode(), password.encode())

    def challenge(self, origin: str, name: str, action: str) -> str:
        """The `WWW-Authenticate` value of a 401.

        Args:
            origin: scheme, host and port as the client called them.
            name: repository, empty for none.
            action: what it wanted.
        """
        if self.mode is Mode.BASIC:
            return f'Basic realm="{SERVICE}"'
        value = f'Bearer realm="{origin}/token",service="{SERVICE}"'
        return f'{value},scope="repository:{name}:{action}"' if name else value

    def issue(self, scopes: list[str], *, known: bool, dead: bool = False) -> str:
        """A bearer token for what is allowed of the wanted scopes.

        Args:
            scopes: texts `repository:<name>:<actions>`.
            known: whether the caller showed credentials.
            dead: make one that has already expired.
        """
        allowed = set()
        for scope in scopes:
            match = SCOPE.match(scope)
            if match is None:
                continue
            for action in match[2].split(","):
                if known or (self.anonymous_pull and action == "pull"):
                    allowed.add(f"{match[1]}:{action}")
        seconds = -1.0 if dead else self.token_seconds
        token = secrets.token_urlsafe(24)
        expires = self.clock.now() + seconds
        self._grants[token] = Grant(scopes=frozenset(allowed), expires=expires)
        self.issued += 1
        return token

    def _has_grant(self, authorization: str, name: str, action: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        grant = self._grants.get(token.strip()) if scheme.lower() == "bearer" else None
        if grant is None or grant.expires <= self.clock.now():
            return False
        return not name or f"{name}:{action}" in grant.scopes or f"{name}:*" in grant.scopes


def form_of(text: str) -> tuple[dict[str, str], list[str]]:
    """The members of a query or form, and its scopes (each may name several, by space)."""
    pairs = parse_qsl(text, keep_blank_values=True)
    scopes = [scope for key, value in pairs if key == "scope" for scope in value.split()]
    return dict(pairs), scopes
