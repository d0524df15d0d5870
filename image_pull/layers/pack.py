"""MessagePack, writing only: what unpack server and workers say. Sans-I/O.

The puller reads it with `msgspec`, whose import would cost the unpack server 2 MiB and a third of
its start.

Source: the MessagePack specification, "Formats".
"""

import struct
from collections.abc import Callable, Mapping

Value = (
    None | bool | int | str | bytes | tuple["Value", ...] | list["Value"] | Mapping[bytes, bytes]
)


def pack(value: Value) -> bytes:
    """A value as MessagePack; an enumeration's member is the string that it is.

    Raises:
        ValueError: an integer or a length that MessagePack has no form for.
    """
    parts: list[bytes] = []
    try:
        _pack(value, parts.append)
    except struct.error as error:
        raise ValueError("a number or a length that MessagePack has no form for") from error
    return b"".join(parts)


def _pack(value: Value, put: Callable[[bytes], None]) -> None:
    match value:
        case None:
            put(b"\xc0")
        case bool():
            put(b"\xc3" if value else b"\xc2")
        case int():
            put(_number(value))
        case str():
            data = value.encode()
            put(struct.pack(">BI", 0xDB, len(data)))
            put(data)
        case bytes():
            put(struct.pack(">BI", 0xC6, len(value)))
            put(value)
        case tuple() | list():
            put(struct.pack(">BI", 0xDD, len(value)))
            for each in value:
                _pack(each, put)
        case _:
            put(struct.pack(">BI", 0xDF, len(value)))
            for name, content in value.items():
                _pack(name, put)
                _pack(content, put)


def _number(value: int) -> bytes:
    if 0 <= value < 0x80:
        return value.to_bytes()
    return struct.pack(">Bq", 0xD3, value) if value < 0 else struct.pack(">BQ", 0xCF, value)
