"""A GET over a connection that aiohttp's pool keeps idle, without aiohttp's request objects.

Connections, TLS, the pool and the parser of answers are aiohttp's. What is not the plain case, or
does not go well, is left to aiohttp's own way, so that there is one set of errors.

Source: docs/adr/0010-warm-reads.md.
"""

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import ClientConnectionError, ClientRequest, ClientSession
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from yarl import URL

FITTING: Final = "3.14."
"""Beginning of the versions of aiohttp whose undocumented names are used here."""

NOT_PLAIN: Final = frozenset({"connection", "expect", "transfer-encoding", "upgrade"})
"""Headers that change more than the text of a request."""


def fits() -> bool:
    """Whether this aiohttp is of such a version; with another all requests go its usual way."""
    return aiohttp.__version__.startswith(FITTING)


class IdleAnswer:
    """An answer whose body is not read yet; the names are those of aiohttp's response."""

    __slots__ = ("close", "content", "headers", "release", "status")

    def __init__(
        self,
        connection: Connection,
        status: int,
        headers: Mapping[str, str],
        content: StreamReader,
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self.close = connection.close
        self.release = connection.release

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, where the peer says so."""
        length = self.headers.get("Content-Length")
        return None if length is None else int(length)


class IdleConnections:
    """The idle connections of a session that has no proxy, to the origin that was asked last."""

    def __init__(self, session: ClientSession, read_buffer: int) -> None:
        """Wrap a session; `read_buffer` is what the session was given as `read_bufsize`."""
        self._session = session
        self._read_buffer = read_buffer
        self._base = "-"  # as no URL begins
        self._key: ConnectionKey
        self._lines: tuple[str, ...]
        self._taken: frozenset[str]

    async def get(self, url: str, headers: tuple[tuple[str, str], ...]) -> IdleAnswer | None:
        """Ask, or None: there is no such connection, or this is not for here."""
        if not url.startswith(self._base):
            parts = urlsplit(url)
            if "@" in parts.netloc:
                return None
            self._begin(f"{parts.scheme}://{parts.netloc}/")
        text = self._text(url, headers)
        connector = self._session.connector
        connection = await connector._get(self._key, []) if text and connector else None
        if connection is None:
            return None
        try:
            answer = await self._exchange(connection, text)
        except (ClientConnectionError, HttpProcessingError, OSError):
            answer = None
        except BaseException:
            connection.close()
            raise
        if answer is None:
            connection.close()
        return answer

    def _begin(self, base: str) -> None:
        """Have aiohttp make one request, for its headers and its key to the pool."""
        session = self._session
        request = ClientRequest(
            "GET",
            URL(base, encoded=True),
            headers=session.headers,
            skip_auto_headers=session.skip_auto_headers,
            loop=asyncio.get_running_loop(),
            session=session,
        )
        self._base = base
        self._key = request.connection_key
        self._lines = tuple(f"{name}: {value}" for name, value in request.headers.items())
        self._taken = NOT_PLAIN.union(name.lower() for name in request.headers)

    def _text(self, url: str, headers: tuple[tuple[str, str], ...]) -> str:
        """The request; empty if it is not plain."""
        path = url.removeprefix(self._base)
        if path == url or "#" in path or any(name.lower() in self._taken for name, _ in headers):
            return ""
        given = (f"{name}: {value}" for name, value in headers)
        lines = (f"GET /{path} HTTP/1.1", *self._lines, *given)
        return "\r\n".join((*lines, "", "")) if all(map(str.isprintable, lines)) else ""

    async def _exchange(self, connection: Connection, text: str) -> IdleAnswer | None:
        """Send, and read the head; None for one that another follows."""
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            return None
        protocol.set_response_params(
            read_until_eof=True, auto_decompress=False, read_bufsize=self._read_buffer
        )
        transport.write(text.encode())
        message, content = await protocol.read()
        if message.code < 200:
            return None
        return IdleAnswer(connection, message.code, message.headers, content)
