"""Who may administrate: open to all, closed to all, or a signed token with a role. Sans-I/O.

Source: docs/spec/kbs-protocol.md §8 (`<why>`), §13.3.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from guest_simulator.kbs.jws import JwsError, PrivateKey, PublicKey, parse_jws, sign_jws, verify_jws

ADMIN_ROLE: Final = "admin"
LEEWAY: Final = 60
"""Seconds past `exp` for which an admin token is still taken."""


class AdminMode(StrEnum):
    """Trustee's `authorization_mode`."""

    INSECURE_ALLOW_ALL = "InsecureAllowAll"
    DENY_ALL = "DenyAll"
    AUTHENTICATED = "AuthenticatedAuthorization"


class AdminDenied(Exception):  # noqa: N818  # it is an answer, not a defect
    """The `<why>` of an admin error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRules:
    """How admin requests are judged.

    Attributes:
        keys: public keys of the identity providers.
        issuer: wanted `iss`, or empty for any.
        audience: wanted in `aud`, or empty for any.
        roles: role to the regular expression of the request URIs it may use; each starts with
            `^/kbs` and ends with `$`.
    """

    mode: AdminMode = AdminMode.INSECURE_ALLOW_ALL
    keys: tuple[PublicKey, ...] = ()
    issuer: str = ""
    audience: str = ""
    roles: Mapping[str, str] = field(default_factory=lambda: {ADMIN_ROLE: "^/kbs/.+$"})

    def __post_init__(self) -> None:
        for pattern in self.roles.values():
            if not (pattern.startswith("^/kbs") and pattern.endswith("$")):
                raise ValueError(f"an endpoint pattern is ^/kbs...$: {pattern}")

    def check(self, authorization: str, uri: str, now: float) -> None:
        """Let an admin request pass.

        Args:
            authorization: the header, empty when absent.
            uri: path with query.
            now: seconds since the epoch.

        Raises:
            AdminDenied: it may not.
        """
        match self.mode:
            case AdminMode.INSECURE_ALLOW_ALL:
                return
            case AdminMode.DENY_ALL:
                raise AdminDenied("Admin access denied: all admin requests are denied")
            case AdminMode.AUTHENTICATED:
                self._check_token(authorization, uri, now)

    def _check_token(self, authorization: str, uri: str, now: float) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AdminDenied("Failed to parse HTTP Auth Bearer header")
        claims = self._claims(token.strip(), now)
        role = claims.get("role")
        if not isinstance(role, str):
            raise AdminDenied("Admin access denied: Missing required `role` claim in JWT")
        pattern = self.roles.get(role)
        if pattern is None or not re.search(pattern, uri):
            raise AdminDenied(f"Admin access denied: Role {role} not allowed for path {uri}")

    def _claims(self, token: str, now: float) -> Mapping[str, object]:
        refused = AdminDenied("Admin access denied: Cannot verify token with any of the issuers")
        try:
            jws = parse_jws(token)
        except JwsError as error:
            raise refused from error
        if not any(_verifies(jws_key, token) for jws_key in self.keys):
            raise refused
        expiry, audience = jws.claims.get("exp"), jws.claims.get("aud")
        if not isinstance(expiry, int | float) or now > expiry + LEEWAY:
            raise refused
        if self.issuer and jws.claims.get("iss") != self.issuer:
            raise refused
        audiences = audience if isinstance(audience, list) else [audience]
        if self.audience and self.audience not in audiences:
            raise refused
        return jws.claims


def _verifies(key: PublicKey, token: str) -> bool:
    try:
        verify_jws(parse_jws(token), key)
    except JwsError:
        return False
    return True


def admin_token(
    key: PrivateKey, now: float, *, seconds: float = 10 * 365 * 86400, role: str = ADMIN_ROLE
) -> str:
    """A token that `AdminRules` with this key takes.

    Args:
        key: Ed25519 or P-256.
        now: `iat`, seconds since the epoch.
        seconds: from `iat` to `exp`.
        role: the claim `role`; left out when empty.
    """
    algorithm = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "ES256"
    claims: dict[str, object] = {"iss": "guest-simulator", "aud": ["kbs"]}
    if role:
        claims["role"] = role
    claims |= {"iat": int(now), "exp": int(now + seconds)}
    return sign_jws({"alg": algorithm, "typ": "JWT"}, claims, key)
