"""Registry credentials and authentication challenges: files, look-up, headers. Sans-I/O.

Source: docs/spec/image-pull.md, sections 5 and 6.2; RFC 9110 §11.6.1; distribution "Token
Authentication".
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from guest.errors import DecodeError
from guest.jsonio import check
from guest.secret import Secret
from image_pull.reference import DEFAULT_REGISTRY, DEFAULT_REGISTRY_HOST, ImageReference

MAX_FILE: Final = 1024 * 1024
"""Most bytes of a credentials file."""

MAX_TOKEN_REPLY: Final = 1024 * 1024
DEFAULT_TOKEN_LIFE: Final = 60.0
"""Seconds that a token without any word on it is used."""

MAX_TOKEN_LIFE: Final = 24 * 3600.0
MAX_HEADER: Final = 16 * 1024
SECRET_MEMBERS: Final = ("auth", "password", "identitytoken", "registrytoken")
HELPER_MEMBERS: Final = ("credsStore", "credHelpers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one registry is told; exactly one of the three.

    Attributes:
        basic: `user:password`.
        identity_token: OAuth2 refresh token.
        registry_token: used as the bearer token itself.
    """

    basic: Secret | None = None
    identity_token: Secret | None = None
    registry_token: Secret | None = None

    def basic_header(self) -> str | None:
        """The value of `Authorization` for HTTP Basic, if there is a password."""
        if self.basic is None:
            return None
        return "Basic " + base64.b64encode(self.basic.reveal()).decode("ascii")


class AuthFile:
    """The `auths` of a credentials file, in file order."""

    def __init__(self, entries: "Mapping[str, _Entry]") -> None:
        """Take decoded entries; use `parse`."""
        self._entries = entries

    @classmethod
    def parse(cls, data: bytes) -> "AuthFile":
        """Parse the JSON of a docker or podman credentials file.

        Raises:
            DecodeError: not such a file, or one that asks for a credential helper.
        """
        check(data, max_depth=16, max_bytes=MAX_FILE)
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError("credentials file is not JSON") from error
        auths = document.get("auths") if isinstance(document, dict) else None
        if not isinstance(auths, dict):
            raise DecodeError("credentials file has no object auths")
        for member in HELPER_MEMBERS:
            if document.get(member):
                raise DecodeError(f"credentials file has {member}, which is not supported")
        return cls({key: _entry(key, value) for key, value in auths.items()})

    def find(self, reference: ImageReference) -> Credentials | None:
        """The credentials for an image, or None for an anonymous pull.

        Raises:
            DecodeError: the matched entry cannot be read.
        """
        for key in _candidates(reference.name):
            if key in self._entries:
                return _credentials(key, self._entries[key])
        host = _host(reference.network_host)
        for key, entry in self._entries.items():
            if _host(_strip_url(key)) == host:
                return _credentials(key, entry)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry as written; its secrets are not read before they are needed."""

    username: str | None
    secrets: Mapping[str, Secret]


def _entry(key: str, value: object) -> _Entry:
    raw = value if isinstance(value, dict) else {}
    secrets = {
        member: Secret(raw[member].encode("utf-8", "surrogatepass"))
        for member in SECRET_MEMBERS
        if isinstance(raw.get(member), str)
    }
    username = raw.get("username")
    is_usable = bool(secrets) if isinstance(username, str) else bool(set(secrets) - {"password"})
    if not is_usable:
        raise DecodeError(f"credentials file: the entry {key[:100]} has no credentials")
    return _Entry(username=username if isinstance(username, str) else None, secrets=secrets)


def _candidates(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]


def _strip_url(key: str) -> str:
    for scheme in ("http://", "https://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    return key


def _host(key: str) -> str:
    return DEFAULT_REGISTRY_HOST if key in ("registry-1.docker.io", DEFAULT_REGISTRY) else key


def _credentials(key: str, entry: _Entry) -> Credentials:
    secrets = entry.secrets
    identity, registry = secrets.get("identitytoken"), secrets.get("registrytoken")
    if identity:
        return Credentials(identity_token=_header_safe(identity, key))
    if registry:
        return Credentials(registry_token=_header_safe(registry, key))
    auth, password = secrets.get("auth"), secrets.get("password")
    if password is None or entry.username is None or auth:
        return Credentials(basic=_decode_auth(key, auth or Secret(b"")))
    if ":" in entry.username:
        raise DecodeError(f"credentials for {key[:100]}: the user name has a colon")
    user = entry.username.encode("utf-8", "surrogatepass")
    return Credentials(basic=Secret(user + b":" + password.reveal()))


def _header_safe(token: Secret, key: str) -> Secret:
    if not all(0x21 <= byte < 0x7F for byte in token.reveal()):
        raise DecodeError(f"credentials for {key[:100]}: the token has illegal characters")
    return token


def _decode_auth(key: str, auth: Secret) -> Secret:
    try:
        text = base64.b64decode(auth.reveal(), validate=True).decode("utf-8")
    except (UnicodeError, binascii.Error):
        # No cause: it would hold a piece of the secret.
        raise DecodeError(f"credentials for {key[:100]} are not base64 of UTF-8") from None
    user, colon, password = text.partition(":")
    if not colon:
        raise DecodeError(f"credentials for {key[:100]} have no colon")
    return Secret(f"{user}:{password.strip(chr(10))}".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One authentication scheme that a server offers.

    Attributes:
        scheme: lower case.
        parameters: lower-case names.
    """

    scheme: str
    parameters: Mapping[str, str]


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER: Final = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r"(?:\"((?:[^\"\\]|\\.)*)\"|([!#$%&'*+.^_`|~0-9A-Za-z:/?@-]+))"
)
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")
_BETWEEN: Final = re.compile(r"[ \t]*(?:,[ \t]*)*")


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Parse `WWW-Authenticate`, whose several values may have been joined by commas.

    Raises:
        DecodeError: not a list of challenges.
    """
    if len(header) > MAX_HEADER:
        raise DecodeError("WWW-Authenticate is too long")
    found: list[tuple[str, dict[str, str]]] = []
    position = _skip(header, 0)
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        if parameter is not None and found:
            quoted = parameter[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else parameter[3]
            found[-1][1][parameter[1].lower()] = value
            position = _skip(header, parameter.end())
            continue
        scheme = _TOKEN.match(header, position)
        if scheme is None:
            raise DecodeError("WWW-Authenticate is malformed")
        found.append((scheme[0].lower(), {}))
        position = _skip(header, scheme.end())
        token = _TOKEN68.match(header, position)
        if header[scheme.end() : position].isspace() and token is not None:
            position = _skip(header, token.end())
    return tuple(Challenge(scheme=scheme, parameters=values) for scheme, values in found)


def _skip(header: str, position: int) -> int:
    match = _BETWEEN.match(header, position)
    return match.end() if match is not None else position


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReply:
    """A bearer token.

    Attributes:
        token: for `Authorization: Bearer`.
        life: seconds it may be used, from now.
    """

    token: Secret
    life: float


def parse_token_reply(body: bytes) -> TokenReply:
    """Parse the token server's JSON.

    Raises:
        DecodeError: no token in it.
    """
    check(body, max_depth=8, max_bytes=MAX_TOKEN_REPLY)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError("token reply is not JSON") from error
    if not isinstance(document, dict):
        raise DecodeError("token reply is not an object")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not all(0x21 <= ord(char) < 0x7F for char in token):
        raise DecodeError("token reply has no token")
    life = document.get("expires_in")
    if isinstance(life, bool) or not isinstance(life, int | float) or not life > 0:
        life = DEFAULT_TOKEN_LIFE
    return TokenReply(token=Secret(token.encode("ascii")), life=min(float(life), MAX_TOKEN_LIFE))
