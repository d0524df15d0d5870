"""Registering a KEK with the KBS, as the owner of an image does before anyone can read it.

Source: docs/spec/ocicrypt.md 14.3, docs/spec/kbs-protocol.md 2.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from guest.crypto.jose import SigningKey
from guest.deadline import Deadline
from guest.errors import ConfigError, DeniedError, NotFoundError, PeerError, UnavailableError
from guest.http import HttpClient, HttpResponse
from guest.resource_uri import ResourceUri
from guest.secret import Secret

TOKEN_SECONDS: Final = 7200
"""Life of an admin token."""

MAX_ANSWER: Final = 64 * 1024
"""Most bytes that are read of the KBS's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminClaims:
    """What the KBS wants to read in an admin token besides its times; None is left out.

    Attributes:
        role: name of a role that may write resources (`admin`).
        issuer: the `iss` claim.
        audience: the one `aud` claim.
    """

    role: str | None = None
    issuer: str | None = None
    audience: str | None = None


class KekRegistrar:
    """Uploads KEKs to one KBS."""

    def __init__(
        self,
        url: str,
        http: HttpClient,
        key: SigningKey,
        claims: AdminClaims,
        now: Callable[[], float],
    ) -> None:
        """Upload to `url` (scheme, host, port; a path is replaced) with tokens signed by `key`.

        Raises:
            ConfigError: not an http or https URL.
        """
        self._url = base_url(url)
        self._http = http
        self._key = key
        self._claims = claims
        self._now = now

    def token(self) -> Secret:
        """A fresh admin token, `iat`, `exp`, `nbf` first."""
        now = int(self._now())
        claims: dict[str, object] = {"iat": now, "exp": now + TOKEN_SECONDS, "nbf": now}
        if self._claims.role is not None:
            claims["role"] = self._claims.role
        if self._claims.issuer is not None:
            claims["iss"] = self._claims.issuer
        if self._claims.audience is not None:
            claims["aud"] = [self._claims.audience]
        return self._key.sign_jwt(claims)

    async def register(self, uri: ResourceUri, kek: Secret, deadline: Deadline) -> None:
        """Store `kek` under `uri`; an existing resource of that name is replaced.

        Raises:
            DeniedError: the KBS does not take the token.
            PeerError, UnavailableError, DeadlineError: any other failure; nothing was wrapped.
        """
        token = self.token()
        response = await self._http.request(
            "POST",
            f"{self._url}{uri.kbs_path()}",
            headers=(
                ("Content-Type", "application/octet-stream"),
                ("Authorization", f"Bearer {token.reveal().decode()}"),
            ),
            body=kek.reveal(),
            deadline=deadline,
            max_body=MAX_ANSWER,
        )
        if response.status != 200:
            raise _refusal(uri, response)


def base_url(url: str) -> str:
    """Scheme, host and port of a KBS's URL; its path is dropped.

    Raises:
        ConfigError: not an http or https URL, or one with a user in it.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ConfigError(f"KBS URL {url[:200]!r} cannot be parsed") from error
    if not usable or "@" in parts.netloc:
        raise ConfigError(f"KBS URL {url[:200]!r} is not http(s)://<host>[:<port>]")
    return f"{parts.scheme}://{parts.netloc}"


def _refusal(uri: ResourceUri, response: HttpResponse) -> Exception:
    try:
        detail = str(json.loads(response.body)["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        detail = response.body[:200].decode("utf-8", "replace")
    text = f"KBS did not store {uri}: status {response.status}, {detail or 'no reason given'}"
    match response.status:
        case 401 | 403:
            return DeniedError(text)
        case 404:
            return NotFoundError(text)
        case status if status >= 500 or status in (408, 429):
            return UnavailableError(text)
        case _:
            return PeerError(text)
