"""CBOR, as far as attestation tokens use it: decode only. Sans-I/O.

Source: RFC 8949 sections 3 and 5.3.1; docs/spec/attesters.md 10.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from guest.errors import DecodeError
from guest.wire import Cursor, decode_utf8

MAX_DEPTH: Final = 16
"""Most arrays, maps and tags within one another."""

MAX_ITEMS: Final = 65_536
"""Most data items in one document, at any depth."""

_LENGTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}
"""Additional information to the bytes of the number that follows."""

_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tag and what it is put on."""

    tag: int
    value: "Value"


Value: TypeAlias = (
    "int | bytes | str | bool | Tagged | tuple[Value, ...] | dict[int | str | bytes, Value] | None"
)
"""What decodes; floating-point numbers and simple values without a meaning are None."""


def decode(data: bytes) -> Value:
    """One data item that fills `data`.

    Raises:
        DecodeError: not well-formed, something behind it, a map with a key twice or a key that is
            neither number nor string, text that is not UTF-8, or too deep or too many items.
    """
    decoder = _Decoder(data)
    value = decoder.item(0)
    decoder.cursor.finish()
    return value


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.cursor = Cursor(data, "CBOR")
        self._left = MAX_ITEMS

    def item(self, depth: int) -> Value:
        return self._item(self.cursor.unsigned(1), depth)

    def _item(self, head: int, depth: int) -> Value:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise DecodeError("CBOR: too deep, or too many items")
        kind, info = head >> 5, head & 31
        if kind == 7:
            return self._simple(info)
        if info == _INDEFINITE:
            return self._indefinite(kind, depth)
        number = self._number(info)
        match kind:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self.cursor.take(number)
            case 3:
                return decode_utf8(self.cursor.take(number), "CBOR text")
            case 6:
                return Tagged(number, self.item(depth + 1))
        if number > self.cursor.remaining:
            raise DecodeError(f"CBOR: {number} items in {self.cursor.remaining} bytes")
        if kind == 4:
            return tuple(self.item(depth + 1) for _ in range(number))
        return self._map([self._pair(depth) for _ in range(number)])

    def _number(self, info: int) -> int:
        if info < 24:
            return info
        if info not in _LENGTHS:
            raise DecodeError(f"CBOR: additional information {info}")
        return self.cursor.unsigned(_LENGTHS[info])

    def _simple(self, info: int) -> Value:
        if info in (_INDEFINITE, 28, 29, 30):
            raise DecodeError(f"CBOR: simple value of information {info}")
        if info >= 24:
            self._number(info)
            return None
        return _SIMPLE.get(info)

    def _pair(self, depth: int) -> tuple[Value, Value]:
        return self.item(depth + 1), self.item(depth + 1)

    def _indefinite(self, kind: int, depth: int) -> Value:
        parts: list[Value] = []
        while (head := self.cursor.unsigned(1)) != _BREAK:
            if kind in (2, 3) and (head >> 5 != kind or head & 31 == _INDEFINITE):
                raise DecodeError("CBOR: a string in parts of another kind")
            parts.append(self._item(head, depth + 1))
            if kind == 5:
                parts.append(self.item(depth + 1))
        match kind:
            case 2:
                return b"".join(part for part in parts if isinstance(part, bytes))
            case 3:
                return "".join(part for part in parts if isinstance(part, str))
            case 4:
                return tuple(parts)
            case 5:
                return self._map(list(zip(parts[::2], parts[1::2], strict=True)))
        raise DecodeError(f"CBOR: kind {kind} has no indefinite length")

    def _map(self, pairs: list[tuple[Value, Value]]) -> Value:
        found: dict[int | str | bytes, Value] = {}
        for key, value in pairs:
            if isinstance(key, bool) or not isinstance(key, int | str | bytes):
                raise DecodeError("CBOR: a key that is neither number nor string")
            if key in found:
                raise DecodeError("CBOR: a key twice in one map")
            found[key] = value
        return found
