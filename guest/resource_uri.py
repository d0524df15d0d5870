"""The URI of a resource behind a KBS: parse, serialise, and the path to ask for. Sans-I/O.

The text is read as a WHATWG URL of a scheme without special rules. Host and port are kept for
serialisation and never choose a server: an annotation must not decide who gets the token.

Source: docs/spec/kbs-protocol.md section 9; WHATWG URL Standard, "URL parsing".
"""

import ipaddress
import re
from typing import Final

import msgspec

from guest.errors import DecodeError

MAX_URI_LENGTH: Final = 8192
"""Characters of the longest URI that is read."""

DEFAULT_PLUGIN: Final = "resource"

_INVALID: Final = "invalid kbs resource uri, should be kbs://<addr-of-kbs>/<repo>/<type>/<tag>"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)
_ENCODED_DOT: Final = re.compile("%2e", re.IGNORECASE)
_ENDS: Final = "".join(map(chr, range(0x21)))
_IGNORED: Final = {ord(character): None for character in "\t\n\r"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~/&=:@!$'()*+,;-]*", re.ASCII)
"""What is the same in every part of a URI, encoded or not."""
_SEGMENT: Final = r"(?!\.)[A-Za-z0-9._~&=:@!$'()*+,;-]*"
_USUAL: Final = re.compile(f"kbs:///((?:{_SEGMENT}/)*{_SEGMENT})")
"""The plain scheme, no host, plain segments that no dot begins: its own one form already."""
_PATH_SET: Final = frozenset(b' "#<>?^`{}')
_QUERY_SET: Final = frozenset(b' "#<>')
_FORBIDDEN_IN_HOST: Final = frozenset("\0\t\n\r #/:<>?@[\\]^|")


class ResourceUri(msgspec.Struct, frozen=True, kw_only=True):
    """One resource.

    Attributes:
        plugin: KBS plugin in lower case; `resource` for the plain scheme.
        path: segments joined by `/`, without a leading one, percent-encoded.
        query: what follows the first `?`, percent-encoded; None without one.
        authority: `host[:port]` or the empty string; names no server.
    """

    plugin: str
    path: str
    query: str | None = None
    authority: str = ""

    @classmethod
    def parse(cls, text: str) -> "ResourceUri":
        """Read `kbs://[host[:port]]/<path>[?query]` or `kbs+<plugin>://...`.

        Raises:
            DecodeError: not such a URI.
        """
        if len(text) > MAX_URI_LENGTH:
            raise DecodeError(f"kbs resource uri is longer than {MAX_URI_LENGTH} characters")
        usual = _USUAL.fullmatch(text)
        if usual is not None:
            return cls(plugin=DEFAULT_PLUGIN, path=usual[1])
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DecodeError(_INVALID) from error
        found = _SCHEME.fullmatch(text.strip(_ENDS).translate(_IGNORED))
        if found is None:
            raise DecodeError(_INVALID)
        plugin = _plugin(found[1].lower())
        rest, has_query, query = found[2].partition("#")[0].partition("?")
        authority = ""
        if rest.startswith("//"):
            authority, slash, rest = rest[2:].partition("/")
            rest = slash + rest
            authority = _authority(authority)
        if not rest.startswith("/"):
            raise DecodeError(_INVALID)
        return cls(
            plugin=plugin,
            path="/".join(_segments(rest[1:])),
            query=_encode(query, _QUERY_SET) if has_query else None,
            authority=authority,
        )

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments, at least one; each may be empty."""
        return tuple(self.path.split("/"))

    def kbs_path(self) -> str:
        """What follows a KBS's base URL: `/kbs/v0/<plugin>/<path>[?query]`."""
        return f"/kbs/v0/{self.plugin}/{self.path}{self._query_text()}"

    def __str__(self) -> str:
        scheme = "kbs" if self.plugin == DEFAULT_PLUGIN else f"kbs+{self.plugin}"
        return f"{scheme}://{self.authority}/{self.path}{self._query_text()}"

    def _query_text(self) -> str:
        return "" if self.query is None else f"?{self.query}"


def _plugin(scheme: str) -> str:
    if scheme == "kbs":
        return DEFAULT_PLUGIN
    kind, plus, plugin = scheme.partition("+")
    if kind != "kbs" or not plus:
        raise DecodeError("scheme must be kbs or kbs+<plugin>")
    if not plugin:
        raise DecodeError("scheme kbs+ requires a plugin name, e.g. kbs+pkcs11")
    if plugin in {".", ".."}:
        raise DecodeError(_INVALID)
    return plugin


def _authority(text: str) -> str:
    """Drop the user, check host and port, write both in their one form."""
    if not text:
        return ""
    _, at, host_port = text.rpartition("@")
    if host_port.startswith("["):
        host, bracket, port_text = host_port.partition("]")
        if not bracket or (port_text and not port_text.startswith(":")):
            raise DecodeError(_INVALID)
        host, port_text = _ipv6(host[1:]), port_text[1:]
    else:
        host, _, port_text = host_port.partition(":")
        if _FORBIDDEN_IN_HOST & set(host):
            raise DecodeError(_INVALID)
        host = _encode(host, frozenset())
    if not host and (port_text or at or ":" in host_port):
        raise DecodeError(_INVALID)
    port = _port(port_text)
    return host if port is None else f"{host}:{port}"


def _ipv6(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError(text)
        return f"[{ipaddress.IPv6Address(text).compressed}]"
    except ValueError as error:
        raise DecodeError(_INVALID) from error


def _port(text: str) -> int | None:
    if not text:
        return None
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > 5 or int(digits) > 0xFFFF:
        raise DecodeError(_INVALID)
    return int(digits)


def _segments(path: str) -> list[str]:
    """Resolve dot segments as a URL does, and encode the others."""
    segments: list[str] = []
    parts = path.split("/")
    for index, part in enumerate(parts):
        plain = _ENCODED_DOT.sub(".", part) if "%" in part else part
        is_last = index == len(parts) - 1
        if plain == "..":
            del segments[-1:]
        if plain in {".", ".."}:
            if is_last:
                segments.append("")
        else:
            segments.append(_encode(part, _PATH_SET))
    return segments


def _encode(text: str, escaped: frozenset[int]) -> str:
    """Percent-encode controls, what is beyond ASCII, and the bytes of `escaped`."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte not in escaped else f"%{byte:02X}"
        for byte in text.encode("utf-8")
    )
