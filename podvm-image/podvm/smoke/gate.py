"""A TCP port that refuses until the guest asks for it: a key broker that is down at first."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

LOOPBACK: Final = "127.0.0.1"
CHUNK: Final = 65536
"""Bytes moved at once."""


@dataclass(slots=True, kw_only=True)
class Gate:
    """The port, and the one on which a connection opens it.

    Attributes:
        target: port that connections go to once it is open.
        port: refuses connections until it is open.
        control: whoever connects gets an end of file once the gate is open.
        opened: whether it is.
    """

    target: int
    port: int = 0
    control: int = 0
    opened: bool = False
    _bound: socket.socket | None = None
    _server: asyncio.Server | None = None
    _waiting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def bind(self) -> None:
        """Take a port; one that is bound and does not listen refuses connections."""
        self._bound = socket.socket()
        self._bound.bind((LOOPBACK, 0))
        self.port = int(self._bound.getsockname()[1])

    async def open(self) -> None:
        """Let connections through from now on."""
        async with self._waiting:
            if self.opened or self._bound is None:
                return
            self._server = await asyncio.start_server(self._forward, sock=self._bound)
            self._bound = None
            self.opened = True

    def close(self) -> None:
        """Give the port back."""
        if self._bound is not None:
            self._bound.close()
        if self._server is not None:
            self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(LOOPBACK, self.target)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, back), name="to the broker")
                tasks.create_task(_copy(there, writer), name="from the broker")
        writer.close()

    async def answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Open the gate for whoever asks."""
        await self.open()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@asynccontextmanager
async def gate(target: int, *, closed: bool) -> AsyncIterator[Gate]:
    """A gate before a port of loopback.

    Args:
        target: the port.
        closed: whether it refuses at first.
    """
    found = Gate(target=target)
    found.bind()
    control = await asyncio.start_server(found.answer, host=LOOPBACK, port=0)
    found.control = int(control.sockets[0].getsockname()[1])
    try:
        if not closed:
            await found.open()
        yield found
    finally:
        control.close()
        found.close()
