"""JSON as a peer may send it: strictness that decoders lack, and the canonical form. Sans-I/O.

`msgspec` and `json` take the last of duplicate members in silence and know no depth; two readers
of one document must not see two different things, so both are refused here before decoding.

Source: RFC 8259; RFC 8785 (canonical form); docs/spec/kbs-protocol.md 4.1.
"""

import json
import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from guest.errors import DecodeError
from guest.prepared import prepared

MAX_BYTES: Final = 4 * 1024 * 1024
"""Default limit on a document, in bytes."""

MAX_DEPTH: Final = 64
"""Default limit on nested arrays and objects."""

_OPENING: Final = (b"[", b"{")
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")

T = TypeVar("T")


def check(data: bytes, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES) -> None:
    """Refuse what is not one strict JSON document.

    Args:
        data: UTF-8 text without a byte order mark.
        max_depth: most arrays and objects around a value; 0 allows scalars alone.
        max_bytes: most bytes in `data`.

    Raises:
        DecodeError: too long or too deep, not UTF-8, not JSON, or an object has two members of
            one name.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"JSON document has {len(data)} bytes, at most {max_bytes} are allowed")
    _check_depth(data, max_depth)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError("JSON document is not UTF-8") from error
    try:
        _CHECKER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DecodeError("document is not JSON") from error


def decode(
    data: bytes, kind: type[T], *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES
) -> T:
    """Check a document and read it into `kind`; unknown members are skipped.

    Raises:
        DecodeError: as `check` says, or the document does not fit the type.
    """
    check(data, max_depth=max_depth, max_bytes=max_bytes)
    try:
        return msgspec.json.decode(data, type=prepared(kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"JSON document does not fit: {error}") from error


def canonical(value: Any) -> bytes:
    """The RFC 8785 form of a value made of JSON types.

    Raises:
        DecodeError: the value has no canonical form (a lone surrogate, an integer beyond 2^53,
            not a number, a member name that is no string, a type that JSON lacks).
    """
    import rfc8785

    try:
        encoded: bytes = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise DecodeError("value has no canonical JSON form") from error
    return encoded


def _check_depth(data: bytes, max_depth: int) -> None:
    if sum(map(data.count, _OPENING)) <= max_depth:  # of all brackets, also those in strings
        return
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(b"", data)):
        if match[0] in b"[{":
            depth += 1
            if depth > max_depth:
                raise DecodeError(f"JSON document is nested deeper than {max_depth}")
        else:
            depth -= 1


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise DecodeError(f"JSON object has two members {name[:40]!r}")
            seen.add(name)


def _refuse_constant(text: str) -> NoReturn:
    raise DecodeError(f"JSON knows no {text}")


def _ignore_number(text: str) -> int:
    """A checked number's value does not matter, and a huge one must not be computed."""
    return len(text)


_CHECKER: Final = json.JSONDecoder(
    object_pairs_hook=_refuse_duplicates,
    parse_constant=_refuse_constant,
    parse_int=_ignore_number,
    parse_float=_ignore_number,
)
