"""Base64, canonical JSON and strict JSON objects as the KBS protocol has them. Sans-I/O.

Source: docs/spec/kbs-protocol.md §4.1; RFC 8785; RFC 4648 §5.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Final

BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*\Z")


class EncodingError(ValueError):
    """Bytes or text that break their encoding."""


def b64url_encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Decode unpadded, canonical base64url.

    Raises:
        EncodingError: padding, another alphabet, an impossible length or stray bits.
    """
    if not BASE64URL.match(text) or len(text) % 4 == 1:
        raise EncodingError("not unpadded base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if b64url_encode(data) != text:
        raise EncodingError("base64url is not canonical")
    return data


def b64_encode(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def b64_decode(text: str) -> bytes:
    """Decode standard base64 with padding.

    Raises:
        EncodingError: another alphabet, wrong padding or stray bits.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise EncodingError("not standard base64") from error
    if b64_encode(data) != text:
        raise EncodingError("base64 is not canonical")
    return data


def canonical_json(value: object) -> bytes:
    """RFC 8785 for strings, integers, booleans, null, arrays and objects.

    Python sorts by code point and RFC 8785 by UTF-16 unit; these differ beyond U+FFFF, hence
    the key function.
    """
    return json.dumps(_sorted(value), separators=(",", ":"), ensure_ascii=False).encode()


def _sorted(value: object) -> object:
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be", "surrogatepass"))
        return {key: _sorted(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value


def compact_json(value: object) -> bytes:
    """JSON without whitespace, members in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def parse_object(data: bytes | str) -> dict[str, object]:
    """Parse JSON that must be an object.

    Raises:
        EncodingError: not UTF-8, not JSON, not an object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EncodingError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EncodingError("not a JSON object")
    return value


def text_member(value: Mapping[str, object], name: str) -> str:
    """A member that must be there and be a string.

    Raises:
        EncodingError: it is missing or something else.
    """
    found = value.get(name)
    if not isinstance(found, str):
        raise EncodingError(f"member {name} is not a string")
    return found
