"""What a request line and a body say: target, query, runtime data, event. Sans-I/O.

Source: docs/spec/api-server-rest.md 2, 3.1 and 3.3; WHATWG URL Standard,
"application/x-www-form-urlencoded parsing".
"""

from collections.abc import Mapping
from typing import Final, Self
from urllib.parse import unquote_to_bytes

import msgspec

from guest import jsonio, wire
from guest.errors import DecodeError

MAX_EVENT_LENGTH: Final = 64 * 1024
"""Most bytes of the body of an event."""

MAX_EVENT_DEPTH: Final = 16

RESERVED_DOMAIN: Final = "github.com/confidential-containers"
"""The domain of the guest's own events, which a container must not forge."""


class Target(msgspec.Struct, frozen=True):
    """The target of a request.

    Attributes:
        path: as it was sent: nothing decoded, nothing resolved; `*` for the asterisk form.
        query: what follows the first `?`, as it was sent; empty without one.
    """

    path: str
    query: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the origin, absolute or asterisk form; a fragment is dropped.

        Raises:
            DecodeError: another form.
        """
        text = text.partition("#")[0]
        path, _, query = text.partition("?")
        if path.startswith("/") or path == "*":
            return cls(path, query)
        scheme, separator, rest = path.partition("://")
        if not separator or not scheme.isascii() or not scheme.isalnum():
            raise DecodeError("request target has none of the known forms")
        authority, slash, rest = rest.partition("/")
        if not authority:
            raise DecodeError("request target names no host")
        return cls(slash + rest or "/", query)


def parse_query(text: str) -> Mapping[str, str]:
    """Read a query: `+` is a space, invalid UTF-8 becomes U+FFFD, the last of duplicates wins."""
    fields: dict[str, str] = {}
    for part in text.split("&"):
        if part:
            name, _, value = part.partition("=")
            fields[_unquote(name)] = _unquote(value)
    return fields


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def decode_runtime_data(value: str, encoding: str | None) -> bytes:
    """The bytes that evidence shall bind.

    Args:
        value: the decoded query value.
        encoding: of the value; None takes its UTF-8 as it is.

    Raises:
        DecodeError: an unknown encoding, or a value that is not in it.
    """
    if encoding is None:
        return value.encode()
    if encoding != "base64":
        raise DecodeError(f"encoding {encoding[:40]!r} is not supported")
    return wire.decode_base64url(value, "runtime_data")


class _EventJson(msgspec.Struct, frozen=True):
    domain: str
    operation: str
    content: str


class Event(msgspec.Struct, frozen=True):
    """One event for the event log.

    Attributes:
        domain: who speaks.
        operation: what was done.
        content: with what.
    """

    domain: str
    operation: str
    content: str

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read the JSON body; unknown members are skipped.

        Raises:
            DecodeError: not such an object, a member twice, or the reserved domain.
        """
        raw = jsonio.decode(body, _EventJson, max_depth=MAX_EVENT_DEPTH, max_bytes=MAX_EVENT_LENGTH)
        if raw.domain == RESERVED_DOMAIN:
            raise DecodeError(f"the domain {RESERVED_DOMAIN} is reserved")
        return cls(raw.domain, raw.operation, raw.content)
