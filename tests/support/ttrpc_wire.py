"""A ttRPC client and a scripted server that work on frames, for tests of our own two ends."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from guest.protos.cdh_pb2 import GetResourceRequest
from guest.protos.ttrpc_pb2 import Request, Response, Status


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was on the wire."""

    stream_id: int
    kind: int
    flags: int
    data: bytes

    def encode(self) -> bytes:
        """Header and data."""
        head = struct.pack(">IIBB", len(self.data), self.stream_id, self.kind, self.flags)
        return head + self.data

    @property
    def response(self) -> Response:
        """The data as a Response."""
        assert self.kind == 2, self
        return Response.FromString(self.data)

    @property
    def status(self) -> tuple[int, str]:
        """Code and text."""
        return self.response.status.code, self.response.status.message


class Wire:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: str) -> Self:
        """Connect to a Unix socket, given as `unix://...` or as a path."""
        reader, writer = await asyncio.open_unix_connection(path.removeprefix("unix://"))
        return cls(reader, writer)

    async def send(self, *pieces: bytes | Frame) -> None:
        """Write everything in one go."""
        parts = (piece.encode() if isinstance(piece, Frame) else piece for piece in pieces)
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def receive(self, seconds: float = 20.0) -> Frame:
        """The next frame."""
        async with asyncio.timeout(seconds):
            head = await self.reader.readexactly(10)
            length, stream_id, kind, flags = struct.unpack(">IIBB", head)
            return Frame(stream_id, kind, flags, await self.reader.readexactly(length))

    async def ask(self, *pieces: bytes | Frame) -> Frame:
        """Send, and receive one frame."""
        await self.send(*pieces)
        return await self.receive()

    async def at_end(self, seconds: float = 20.0) -> bool:
        """Whether the peer closes without another byte."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        """Close."""
        self.writer.close()


@asynccontextmanager
async def wire(path: str) -> AsyncIterator[Wire]:
    """A connection for the block."""
    connection = await Wire.connect(path)
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def scripted_server(
    path: str, script: Callable[[Wire], Awaitable[None]]
) -> AsyncIterator[None]:
    """Run `script` for each connection; what a client closes ends it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Wire(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path.removeprefix("unix://"))
    try:
        yield
    finally:
        server.close()


def request(
    stream_id: int,
    path: str = "kbs:///default/key/1",
    *,
    service: str = "api.GetResourceService",
    method: str = "GetResource",
    timeout: int = 0,
    flags: int = 0,
    payload: bytes | None = None,
) -> Frame:
    """A Request frame, by default of GetResource."""
    if payload is None:
        payload = GetResourceRequest(ResourcePath=path).SerializeToString()
    message = Request(service=service, method=method, payload=payload, timeout_nano=timeout)
    return Frame(stream_id, 1, flags, message.SerializeToString())


def success(stream_id: int, payload: bytes = b"") -> Frame:
    """A Response frame of the Rust form."""
    data = Response(status=Status(), payload=payload).SerializeToString()
    return Frame(stream_id, 2, 0, data)
