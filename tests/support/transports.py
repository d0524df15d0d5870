"""The three transports behind one door, for suites that must not see a difference."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from guest.errors import UnavailableError
from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.grpc import GrpcChannel, GrpcServer
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import Channel, Routes
from guest.rpc.server import CallObserver, serving
from guest.rpc.status import Code
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer

TRANSPORTS: Final = ("ttrpc", "grpc", "in-process")


class Observer:
    """Notes every call that ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, Code, ErrorDetail | None]] = []

    def call_ended(
        self, method_path: str, code: Code, seconds: float, detail: ErrorDetail | None
    ) -> None:
        assert seconds >= 0
        self.ended.append((method_path, code, detail))


@asynccontextmanager
async def connected(
    transport: str, routes: Routes, directory: Path, observer: CallObserver | None = None
) -> AsyncIterator[Channel]:
    """A channel to a server of `routes`; both are closed at the end."""
    if transport == "in-process":
        channel: Channel = InProcessChannel(routes, observer)
        try:
            yield channel
        finally:
            await channel.close()
        return
    address = f"unix://{directory}/{transport}.sock"
    if transport == "grpc":
        server: GrpcServer | TtrpcServer = GrpcServer(routes, address, observer=observer)
    else:
        server = TtrpcServer(routes, address, observer=observer)
    async with serving(server, grace=0.2):
        channel = GrpcChannel(server.address) if transport == "grpc" else TtrpcChannel(address)
        try:
            yield channel
        finally:
            await channel.close()


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the loop run until something holds that no event tells of."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def refused(work: Awaitable[object], kind: type[BaseException]) -> str:
    """The text of the error of exactly this class that the work ends in."""
    with pytest.raises(kind) as caught:
        await work
    assert type(caught.value) is kind or issubclass(type(caught.value), UnavailableError)
    return str(caught.value)
