"""HTTP/1.1 as containers speak it: the door to aiohttp. Requests in, responses out.

aiohttp's own router decodes and normalises, and its parser wants a Host header: both are replaced
here, because the specification wants neither.

Source: docs/spec/api-server-rest.md 2, 4 and 7.
"""

import asyncio
import logging
import re
import socket
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParserPy, RawRequestMessage
from aiohttp.http_writer import HttpVersion
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from api_server_rest.exchange import Answer, BodyError, BodyTooLongError, Request

log = logging.getLogger(__name__)

MAX_TARGET_LENGTH: Final = 65_534
"""Most bytes of a request target; a longer one is answered with 414."""

MAX_FIELDS: Final = 100
"""Most header fields; one more is answered with 431."""

MAX_HEAD_LENGTH: Final = 64 * 1024
"""Most bytes of all header fields together, target not counted."""

MAX_LINE_OVERHEAD: Final = 64
"""Bytes of a request line besides its target."""

HEAD_SECONDS: Final = 10.0
"""Seconds from the first byte of a request to the end of its header fields."""

IDLE_SECONDS: Final = 75.0
"""Seconds after which a connection without a request is closed."""

BODY_SECONDS: Final = 30.0
"""Seconds in which a body that is wanted must be here."""

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

LINGER_SECONDS: Final = 2.0
"""Seconds for which the rest of a body that nobody wants is read and dropped."""

MAX_CONNECTIONS: Final = 1024

MALFORMED: Final = "\0"
"""Begins the target of what is no request; no real target has it."""

NO_ANSWER: Final = 0
"""Stands for the status where the peer speaks HTTP/2 and gets none."""

_LENGTH: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_REQUEST_LINE: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) HTTP/1\.([01])"
)
_ANCHOR: Final = URL("/")


class HeadTooLongError(BadHttpMessage):
    """The target or the header fields are longer than we read."""

    def __init__(self, status: int) -> None:
        super().__init__("request head is too long")
        self.status = status


class _Parser(HttpRequestParserPy):
    """aiohttp's parser, with targets as they are, our limits, and no need for a Host.

    What is malformed becomes a message of its own, whose target is `MALFORMED` and a status: it
    is answered in its turn, after the requests before it.
    """

    _parsed: list[RawRequestMessage]
    _is_over = False

    def parse_message(self, lines: list[bytes]) -> RawRequestMessage:
        """Read one request's head."""
        try:
            message = self._read_head(lines)
        except HttpProcessingError as error:
            message = self._malformed(error)
        self._parsed.append(message)
        return message

    def feed_data(self, data: bytes, *arguments: Any) -> Any:
        """Take more bytes; an unfinished head never grows past the limits."""
        self._parsed = []
        if self._is_over:
            return [], False, b""
        try:
            messages, upgraded, tail = super().feed_data(data, *arguments)
            if self.has_part_of_head():
                lines = [*self._lines, self._tail]
                known = len(lines[0]) - MAX_LINE_OVERHEAD if len(lines) == 1 else 0
                self._parsed = [message for message, _ in messages]
                _check_head(lines, known)
        except HttpProcessingError as error:
            self._is_over = True
            payloads: list[Any] = [EMPTY_PAYLOAD] * len(self._parsed)
            if payloads and self._payload_parser is not None:
                payloads[-1] = self._payload_parser.payload
            broken = (self._malformed(error), EMPTY_PAYLOAD)
            return [*zip(self._parsed, payloads, strict=True), broken], False, b""
        return messages, upgraded, tail

    def has_part_of_head(self) -> bool:
        """Whether the head of a request began and did not end yet."""
        reads_body = self._payload_parser is not None or self._upgraded
        waits = bool(self._max_msg_queue_size) and self._msg_in_flight >= self._max_msg_queue_size
        return bool(self._lines or self._tail) and not (reads_body or waits or self._is_over)

    def end_body(self) -> None:
        """The peer sends no more: a body that is not whole ends with an error, at once."""
        reader = self._payload_parser
        if reader is None:
            return
        try:
            self.feed_eof()
        except HttpProcessingError as error:
            self._payload_parser = None
            reader.payload.set_exception(web.RequestPayloadError(error.message))

    def _read_head(self, lines: list[bytes]) -> RawRequestMessage:
        if lines[0].startswith(b"PRI * HTTP/2"):
            raise HeadTooLongError(NO_ANSWER)
        match = _REQUEST_LINE.fullmatch(lines[0])
        if match is None:
            raise BadHttpMessage("malformed request line")
        _check_head(lines, len(match[2]))
        method = match[1].decode("ascii").upper()
        if method == "CONNECT":
            raise BadHttpMessage("CONNECT is not spoken here")
        try:
            target = match[2].decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadHttpMessage("request target is not UTF-8") from error
        headers, raw, _, _, _, chunked = self.parse_headers(lines[1:])
        if not _LENGTH.fullmatch(headers.get("Content-Length", "0")):
            raise BadHttpMessage("malformed Content-Length")
        version = HttpVersion(1, int(match[3]))
        return RawRequestMessage(
            method, target, version, headers, raw, False, None, False, chunked, _ANCHOR
        )

    def _malformed(self, error: HttpProcessingError) -> RawRequestMessage:
        log.debug("malformed request", extra={"cause": error.message[:200]})
        status = 400
        if isinstance(error, HeadTooLongError):
            status = error.status
        elif len(self._lines) > MAX_FIELDS or (isinstance(error, LineTooLong) and self._lines):
            status = 431
        elif isinstance(error, LineTooLong):
            status = 414
        headers, raw, _, _, _, _ = self.parse_headers([b""])
        target, version = f"{MALFORMED}{status}", HttpVersion(1, 1)
        return RawRequestMessage(
            "GET", target, version, headers, raw, False, None, False, False, _ANCHOR
        )


def _check_head(lines: list[bytes], target_length: int) -> None:
    if target_length > MAX_TARGET_LENGTH:
        raise HeadTooLongError(414)
    fields = [line for line in lines[1:] if line]
    if len(fields) > MAX_FIELDS or sum(map(len, fields)) > MAX_HEAD_LENGTH:
        raise HeadTooLongError(431)


def _wants_close(request: web.BaseRequest) -> bool:
    """Whether this is the connection's last request, by its version and `Connection`."""
    fields = ",".join(request.headers.getall("Connection", ())).lower()
    tokens = {token.strip() for token in fields.split(",")}
    return "close" in tokens or (request.version.minor == 0 and "keep-alive" not in tokens)


class Response(web.Response):
    """A response with the headers it was given, a date and its length; no server's name."""

    async def _prepare_headers(self) -> None:
        has_type = "Content-Type" in self.headers
        await super()._prepare_headers()
        self.headers.popall("Server", None)
        if not has_type:
            self.headers.popall("Content-Type", None)


class _Connection(RequestHandler):
    """One connection: limits on time and number, and errors as the specification has them."""

    __slots__ = ("_head_timer", "_saw_end")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes it for "no log"
            logger=log,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self._parser = _Parser(
            self,
            loop,
            self._read_bufsize,
            max_line_size=MAX_TARGET_LENGTH + MAX_LINE_OVERHEAD,
            max_field_size=MAX_HEAD_LENGTH,
            max_headers=10 * MAX_FIELDS,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )
        self._head_timer: asyncio.TimerHandle | None = None
        self._saw_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve, unless there are too many."""
        super().connection_made(transport)
        assert self._manager is not None
        if len(self._manager.connections) > MAX_CONNECTIONS:
            log.warning("connection refused: too many", extra={"limit": MAX_CONNECTIONS})
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that began must end in time."""
        super().data_received(data)
        parser = self._parser
        if not isinstance(parser, _Parser) or not parser.has_part_of_head():
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD_SECONDS, self.force_close)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio reads the result
        """Answer what was asked before the peer's end, then close."""
        if self._waiter is not None and not self._messages:
            return None
        if isinstance(self._parser, _Parser):
            self._parser.end_body()
        self._saw_end = True
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the timer too."""
        self._stop_timer()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send; after the peer's end nothing can follow what it sent before."""
        outcome = await super().finish_response(request, resp, start_time)
        if self._saw_end and not self._messages:
            self.close()
        return outcome

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A bug of ours: an empty answer and the end of the connection."""
        log.error("request failed", exc_info=exc)
        response = Response(status=status)
        response.force_close()
        return response

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Handler(Protocol):
    """What answers requests."""

    async def answer(self, request: Request) -> Answer:
        """Answer one request; never raises but for a bug."""
        ...


class HttpServer:
    """Serves a handler on a listening socket; made inside the running loop.

    Args:
        handler: answers.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._manager = web.Server(self._handle, handler_cancellation=True)
        self._server: asyncio.Server | None = None

    async def serve(self, listening: socket.socket) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()

        def connection() -> _Connection:
            return _Connection(self._manager, loop=loop)

        self._server = await loop.create_server(connection, sock=listening, backlog=BACKLOG)

    async def drain(self, grace: float) -> None:
        """Accept no more, end idle connections, give requests under way `grace` seconds."""
        if self._server is not None:
            self._server.close()
        self._manager.pre_shutdown()
        await self._manager.shutdown(grace)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith(MALFORMED):
            return _refuse(request)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        answer = await self._handler.answer(
            Request(
                method=request.method,
                target=request.raw_path,
                peer=peer[0] if isinstance(peer, tuple) else "",
                has_origin="Origin" in request.headers,
                read_body=lambda limit: _read_body(request, limit),
            )
        )
        response = Response(status=answer.status, body=answer.body, headers=answer.headers)
        if answer.close or _wants_close(request):
            response.force_close()
        return response


def _refuse(request: web.BaseRequest) -> web.StreamResponse:
    """The empty answer to what is no request, and the end of the connection."""
    status = int(request.raw_path.removeprefix(MALFORMED))
    if status == NO_ANSWER and request.transport is not None:
        request.transport.close()
    response = Response(status=status or 400)
    response.force_close()
    return response


async def _read_body(request: web.BaseRequest, limit: int) -> bytes:
    """At most `limit` bytes of a body; a longer one is noticed before it is held.

    Raises:
        BodyTooLongError: it is longer.
        BodyError: it is malformed, ends early, or takes too long.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise BodyTooLongError(f"body of {length} bytes")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version.minor:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLongError(f"body of more than {limit} bytes")
    except TimeoutError as error:
        raise BodyError("no end in time") from error
    except (web.RequestPayloadError, HttpProcessingError, OSError) as error:
        raise BodyError("body is malformed or incomplete") from error
    return bytes(body)
