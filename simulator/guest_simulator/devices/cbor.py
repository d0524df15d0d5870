"""CBOR as far as a realm's token needs it, decoded. Sans-I/O.

Source: RFC 8949 section 3.
"""

from typing import Any, Final

from guest_simulator.devices.realm import Tag

MAX_DEPTH: Final = 16
LENGTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}


def decode(data: bytes) -> Any:
    """One item: number, string, list, mapping or `Tag`.

    Raises:
        ValueError: cut, too deep, more than one item, or of a kind that tokens have not.
    """
    value, at = _item(data, 0, 0)
    if at != len(data):
        raise ValueError("bytes behind a CBOR item")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("CBOR is too deep")
    kind, number, at = _head(data, at)
    if kind == 0:
        return number, at
    if kind == 1:
        return -1 - number, at
    if kind in (2, 3):
        content = data[at : at + number]
        if len(content) != number:
            raise ValueError("CBOR is cut")
        return content if kind == 2 else content.decode(), at + number
    if kind == 6:
        value, at = _item(data, at, depth + 1)
        return Tag(number, value), at
    if kind not in (4, 5):
        raise ValueError(f"CBOR of kind {kind}")
    values = []
    for _ in range(number if kind == 4 else 2 * number):
        value, at = _item(data, at, depth + 1)
        values.append(value)
    if kind == 4:
        return values, at
    return dict(zip(values[::2], values[1::2], strict=True)), at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise ValueError("CBOR is cut")
    kind, info = data[at] >> 5, data[at] & 31
    if info < 24:
        return kind, info, at + 1
    length = LENGTHS.get(info)
    if length is None or at + 1 + length > len(data):
        raise ValueError("CBOR is cut, or of no definite length")
    return kind, int.from_bytes(data[at + 1 : at + 1 + length], "big"), at + 1 + length
