"""A ttRPC client of its own: sockets and bytes, nothing of the project's. Blocking.

Written from docs/spec/ttrpc.md 2 and 3.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


def varint(value: int) -> bytes:
    """An unsigned LEB128 number; negative ones are 64 bits of two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def text(number: int, value: str | bytes) -> bytes:
    """A length-delimited field; nothing for an empty one."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw if raw else b""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: varints and length-delimited ones only."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            yield key >> 3, data[at : at + value]
            at += value
        else:
            assert key & 7 == 0, f"wire type {key & 7}"
            yield key >> 3, value


@dataclass(frozen=True)
class Reply:
    """One frame from the server, as a Response."""

    stream_id: int
    kind: int
    code: int = 0
    message: str = ""
    payload: bytes = field(default=b"", repr=False)
    raw: bytes = field(default=b"", repr=False)


def request(
    stream_id: int,
    method: str,
    payload: bytes = b"",
    *,
    timeout: int = 0,
    metadata: tuple[tuple[str, str], ...] = (),
    flags: int = 0,
) -> bytes:
    """A Request frame; `method` is `<package>.<Service>/<Method>`."""
    service, _, name = method.partition("/")
    body = text(1, service) + text(2, name) + text(3, payload)
    body += b"\x20" + varint(timeout) if timeout else b""
    body += b"".join(text(5, text(1, key) + text(2, value)) for key, value in metadata)
    return frame(stream_id, 1, body, flags)


def frame(stream_id: int, kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Any frame."""
    return struct.pack(">IIBB", len(body), stream_id, kind, flags) + body


class Client:
    """One connection."""

    def __init__(self, path: str, seconds: float = 30.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(seconds)
        self.socket.connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError(f"closed after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    def receive(self) -> Reply:
        """The next frame."""
        head = self._exactly(10)
        length, stream_id, kind, _flags = struct.unpack(">IIBB", head)
        body = self._exactly(length)
        code, message, payload = 0, "", b""
        for number, value in fields(body):
            if number == 1 and isinstance(value, bytes):
                status = dict(fields(value))
                code = int(status.get(1, 0))
                raw = status.get(2, b"")
                message = raw.decode() if isinstance(raw, bytes) else ""
            elif number == 2 and isinstance(value, bytes):
                payload = value
        return Reply(stream_id, kind, code, message, payload, head + body)

    def ask(self, data: bytes) -> Reply:
        """Send, and receive one frame."""
        self.socket.sendall(data)
        return self.receive()

    def is_closed_by_peer(self) -> bool:
        """Whether the server closes without another byte."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
