"""An HTTP proxy that leads every host to one server: what DNS would do for a simulated cloud."""

import asyncio
from types import TracebackType
from typing import Self


class Tunnel:
    """Answers CONNECT, whatever the host, with a connection to one address.

    Attributes:
        targets: `host:port` of every CONNECT, oldest first.
    """

    def __init__(self, host: str, port: int) -> None:
        """Make one that does not listen yet.

        Args:
            host: where every connection leads.
            port: and its port.
        """
        self.targets: list[str] = []
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """What a client is told as its proxy."""
        assert self._server is not None, "the tunnel is not listening"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
            if method != "CONNECT":
                writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            self.targets.append(target)
            there, back = await asyncio.open_connection(*self._to)
            self._writers.add(back)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_relay(reader, back), name="tunnel out")
                tasks.create_task(_relay(there, writer), name="tunnel back")
            self._writers.discard(back)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return
        except asyncio.CancelledError:
            return  # the server is closing; start_server would log this
        finally:
            self._writers.discard(writer)
            writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()
