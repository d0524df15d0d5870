"""One HTTP server on loopback: routing to a handler, faults, request log, TLS, start and stop."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from guest_simulator.faults import Fault, Faults, Lie
from guest_simulator.reply import CHUNK, Reply, apply_faults, bytes_of, pieces
from guest_simulator.request_log import LOGGED_HEADERS, RequestLog, RequestRecord

HEAD_LIMIT: Final = 128 * 1024
"""Bytes of a request line or header field. Source: docs/spec/kbs-protocol.md §2."""

CONTROL_PREFIX: Final = "/_simulator/"

NO_CONTENT_TYPE: Final = "guest-simulator/none"
"""Stands in the header until just before it is sent; aiohttp would put a type of its own."""


class TooLargeError(Exception):
    """A request body over the limit."""


class Incoming:
    """A request as a handler sees it.

    Attributes:
        method: as sent.
        path: raw, percent-encoding untouched, without the query.
        query: raw, without `?`.
        lies: what the handler is told to get wrong.
    """

    def __init__(self, request: web.Request, lies: frozenset[Lie] = frozenset()) -> None:
        self._request = request
        self.method = request.method
        self.path, _, self.query = request.raw_path.partition("?")
        self.lies = lies

    def header(self, name: str) -> str:
        """A header, or an empty text."""
        return self._request.headers.get(name, "")

    def headers(self) -> dict[str, str]:
        """All headers by lower-case name; of repeated ones the last."""
        return {name.lower(): value for name, value in self._request.headers.items()}

    @property
    def host(self) -> str:
        """What the client calls this server: the `Host` header."""
        return self._request.headers.get("Host", "")

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self._request.scheme

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            TooLargeError: it has more than `limit` bytes.
        """
        parts = bytearray()
        async for chunk in self.chunks():
            if len(parts) + len(chunk) > limit:
                raise TooLargeError
            parts += chunk
        return bytes(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces, none of them kept."""
        async for chunk in self._request.content.iter_chunked(CHUNK):
            yield chunk


Handler = Callable[[Incoming], Awaitable[Reply]]


class HttpService:
    """A server that answers every request through one handler.

    Use it as an async context manager: it listens from entry to exit, and a second entry comes
    up on the same port, so that a test can take a server away and bring it back.

    Attributes:
        faults: what goes wrong; change it at any time.
        requests: what was asked.
        control: answers what lies below `/_simulator/`; None for nobody.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        keep_alive: float = 75.0,
    ) -> None:
        self.faults = Faults()
        self.requests = RequestLog()
        self.control: Handler | None = None
        self._handler = handler
        self._host = host
        self._wanted_port = port
        self._tls = tls
        self._keep_alive = keep_alive
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._stopping = asyncio.Event()

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        assert self._port, "the server is not listening"
        return self._port

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self._host}:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port` or `https://host:port`, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self.address}"

    async def __aenter__(self) -> Self:
        self._stopping = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        app.on_response_prepare.append(_drop_content_type)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            keepalive_timeout=self._keep_alive,
            max_line_size=HEAD_LIMIT,
            max_field_size=HEAD_LIMIT,
            shutdown_timeout=1.0,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._wanted_port, ssl_context=self._tls)
        await site.start()
        self._port = self._wanted_port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.control is not None and request.raw_path.startswith(CONTROL_PREFIX):
            return await _send(request, await self.control(Incoming(request)))
        started = time.monotonic()
        faults = self.faults.take(request.method, request.raw_path)
        status, sent = 0, 0
        try:
            if any(fault.drop for fault in faults):
                await self._delay(faults)
                _hang_up(request)
                return web.Response(status=500)
            lies = frozenset(fault.lie for fault in faults if fault.lie is not None)
            reply = apply_faults(await self._handler(Incoming(request, lies)), faults)
            await self._delay(faults)
            status, sent = reply.status, reply.length
            cuts = [f for f in faults if f.cut_after is not None or f.stall_after is not None]
            if cuts:
                response, sent = await self._send_part(request, reply, cuts[0])
                return response
            return await _send(request, reply)
        finally:
            self._log(request, status=status, started=started, sent=sent)

    async def _delay(self, faults: tuple[Fault, ...]) -> None:
        seconds = sum(fault.delay for fault in faults)
        if seconds:
            await self._wait_for_stop(seconds)

    async def _wait_for_stop(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _send_part(
        self, request: web.Request, reply: Reply, fault: Fault
    ) -> tuple[web.StreamResponse, int]:
        limit = fault.cut_after if fault.cut_after is not None else fault.stall_after or 0
        response = _streamed(reply)
        await response.prepare(request)
        body = bytes_of(reply.body)[:limit]
        for piece in pieces(body):
            await response.write(piece)
        if fault.cut_after is None:
            await self._wait_for_stop(None)
        _hang_up(request)
        return response, len(body)

    def _log(self, request: web.Request, *, status: int, started: float, sent: int) -> None:
        path, _, query = request.raw_path.partition("?")
        headers = {
            name: request.headers[name] for name in LOGGED_HEADERS if name in request.headers
        }
        self.requests.add(
            RequestRecord(
                method=request.method,
                path=path,
                query=query,
                status=status,
                headers=headers,
                started=started,
                seconds=time.monotonic() - started,
                sent=sent,
            )
        )


async def _drop_content_type(request: web.Request, response: web.StreamResponse) -> None:
    """Take away what aiohttp adds on its own where an answer is to have no type."""
    if response.headers.get("Content-Type") == NO_CONTENT_TYPE:
        del response.headers["Content-Type"]


def _hang_up(request: web.Request) -> None:
    """Close after what is already written; a reset would take sent bytes along."""
    if request.transport is not None:
        request.transport.close()


def _headers(reply: Reply) -> dict[str, str]:
    if any(name.lower() == "content-type" for name in reply.headers):
        return dict(reply.headers)
    return {**reply.headers, "Content-Type": NO_CONTENT_TYPE}


def _streamed(reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=_headers(reply))
    response.content_length = reply.length
    return response


async def _send(request: web.Request, reply: Reply) -> web.StreamResponse:
    if isinstance(reply.body, bytes) and len(reply.body) <= CHUNK:
        return web.Response(status=reply.status, headers=_headers(reply), body=reply.body)
    response = _streamed(reply)
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in pieces(reply.body):
            await response.write(piece)
    await response.write_eof()
    return response
