"""HTTP/1.1 as a client: the door to aiohttp, which is loaded with the first request.

Redirects are not followed, bodies are not decompressed, no cookie is kept and nothing is read
from the environment: what a request carries is what its caller gave.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeadlineError,
    GuestError,
    InvalidInputError,
    LimitError,
    PeerError,
    UnavailableError,
    UnreachableError,
    foreign_text,
)
from guest.proxies import Proxies

WHOLE_BODY: Final = 512 * 1024
"""Longest request body, in bytes, written in one piece; a longer one would hold the loop."""

CONNECT_LIMIT: Final = 10.0
"""Seconds for the TCP connection alone, where nobody says otherwise."""

KEEP_ALIVE: Final = 4.0
"""Seconds an idle connection is kept: less than the 5 after which a KBS closes it."""

READ_BUFFER: Final = 16 * 1024
"""Half the bytes after which a stream's reader stops reading: a chunk has at most twice as many
and what the event loop reads at once, 256 KiB."""

DEFAULT_POOL_SIZE: Final = 32

Headers = tuple[tuple[str, str], ...]


class CertificateError(UnreachableError):
    """The peer's certificate was refused; trying the same address again is in vain."""

    code = "certificate"


def is_transient(error: GuestError) -> bool:
    """Whether the same request, if it may be repeated, may go better another time."""
    return isinstance(error, UnavailableError) and not isinstance(error, CertificateError)


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer.

    Attributes:
        status: three digits.
        headers: by lower-case name; repeated ones joined by `, `, `set-cookie` by line feeds.
        body: as received, never decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpStream:
    """An answer whose body comes in pieces.

    Attributes:
        status: three digits.
        headers: as in `HttpResponse`.
    """

    def __init__(self, response: Any, what: str, deadline: Deadline, idle: float) -> None:
        """Wrap aiohttp's response; only `HttpClient.stream` makes one."""
        self.status: Final[int] = response.status
        self.headers: Final = _headers(response)
        self._response = response
        self._what = what
        self._deadline = deadline
        self._idle = idle

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive, never empty ones.

        Raises:
            UnavailableError: the connection was lost, or nothing came for the idle time.
            DeadlineError: the deadline passed.
        """
        content = self._response.content
        while True:
            step = self._deadline.within(self._idle)
            try:
                with _Translated(self._what):
                    async with step.limit(self._what):
                        chunk: bytes = await content.readany()
            except DeadlineError as error:
                if self._deadline.is_over():
                    raise
                raise UnavailableError(f"no byte in {self._idle:g} s from {self._what}") from error
            if not chunk:
                return
            yield chunk


class HttpClient:
    """One pool of connections with one set of trust anchors.

    Host names are checked against certificates always; `extra_roots` are trusted besides the
    system's.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        extra_roots: tuple[str, ...] = (),
        proxies: Proxies = Proxies(),  # noqa: B008  # immutable
        pool_size: int = DEFAULT_POOL_SIZE,
        connect_limit: float = CONNECT_LIMIT,
    ) -> None:
        """Check the arguments; nothing is opened yet.

        Args:
            user_agent: value of the header.
            extra_roots: PEM texts with one or more certificates each.
            proxies: see `Proxies`.
            pool_size: most connections at a time; further requests wait inside their deadline.
            connect_limit: seconds for the TCP connection alone.

        Raises:
            ConfigError: a text is not PEM, or a proxy is not an http(s) URL.
        """
        proxies.verify()
        if extra_roots:
            _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), extra_roots)
        self._user_agent = user_agent
        self._extra_roots = extra_roots
        self._proxies = proxies
        self._pool_size = pool_size
        self._connect_limit = connect_limit
        self._opening = asyncio.Lock()
        self._session: Any = None  # aiohttp.ClientSession, a type that is loaded late
        self._idle: Any = None  # guest.http_idle.IdleConnections, likewise
        self._closed = False

    async def prepare(self, deadline: Deadline) -> None:
        """Load what the first request would load, for whoever gives that one little time.

        Raises:
            UnavailableError: the client is closed.
            DeadlineError: not done in time.
        """
        if self._session is None:
            async with deadline.limit("the HTTP client's libraries"):
                await self._open()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: bytes | None = None,
        deadline: Deadline,
        max_body: int,
    ) -> HttpResponse:
        """Send a request and read the whole answer, whatever its status.

        Args:
            method: upper case.
            url: absolute, percent-encoded; sent as it is.
            headers: besides `Host`, `User-Agent`, `Accept` and `Content-Length`.
            body: sent with its length.
            deadline: for all of it.
            max_body: bytes of the longest answer that is read.

        Raises:
            InvalidInputError: not an http(s) URL.
            UnreachableError: no connection; `CertificateError` if the peer is not trusted.
            UnavailableError: the connection was lost.
            DeadlineError: not done in time.
            LimitError: the answer is longer than `max_body`.
            PeerError: the answer is not HTTP.
        """
        what = _describe(method, url)
        with _Translated(what):
            async with deadline.limit(what):
                response = None
                if method == "GET" and body is None and self._idle is not None:
                    response = await self._idle.get(url, headers)
                response = response or await self._send(method, url, headers, body)
                try:
                    content = await _read(response, max_body, what)
                except BaseException:
                    response.close()
                    raise
                response.release()
        return HttpResponse(status=response.status, headers=_headers(response), body=content)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Headers = (), deadline: Deadline, idle: float
    ) -> AsyncIterator[HttpStream]:
        """Send a request and give the answer once its head is here.

        The connection goes back to the pool if the body was read to its end, else it is closed.

        Args:
            method: upper case.
            url: as for `request`.
            headers: as for `request`.
            deadline: for all of it; may be unlimited, since `idle` bounds each step.
            idle: most seconds without a byte, the head included.

        Raises:
            GuestError: as `request`, without `LimitError`.
        """
        what = _describe(method, url)
        try:
            with _Translated(what):
                async with deadline.within(idle).limit(what):
                    response = await self._send(method, url, headers, None)
        except DeadlineError as error:
            if deadline.is_over():
                raise
            raise UnavailableError(f"no answer in {idle:g} s to {what}") from error
        try:
            yield HttpStream(response, what, deadline, idle)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def close(self) -> None:
        """Close all connections; no request may follow."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _send(self, method: str, url: str, headers: Headers, body: bytes | None) -> Any:
        session = self._session or await self._open()
        from yarl import URL  # aiohttp has loaded it, off the loop

        return await session.request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=io.BytesIO(body) if body is not None and len(body) > WHOLE_BODY else body,
            proxy=self._proxies.for_url(url),
            allow_redirects=False,
        )

    async def _open(self) -> Any:
        async with self._opening:
            if self._closed:
                raise UnavailableError("HTTP client is closed")
            if self._session is None:
                context = await asyncio.to_thread(_load, self._extra_roots)
                self._session = self._new_session(context)
                from guest.http_idle import IdleConnections, fits

                if fits() and self._proxies == Proxies():
                    self._idle = IdleConnections(self._session, READ_BUFFER)
            return self._session

    def _new_session(self, context: ssl.SSLContext) -> Any:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._pool_size, ssl=context, keepalive_timeout=KEEP_ALIVE
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._user_agent, "Accept": "*/*"},
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_limit),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER,
        )


def _load(extra_roots: tuple[str, ...]) -> ssl.SSLContext:
    """Import aiohttp and read the system's roots, off the loop: both take tens of ms.

    Without further roots all clients share one context, so that the system's are read once.
    """
    import guest.aiohttp_import  # before aiohttp is imported
    import guest.http_idle  # noqa: F401  # loaded here with aiohttp, used on the loop
    from guest.http_roots import SYSTEM, system_context

    if not extra_roots:
        return SYSTEM
    context = system_context()
    _trust(context, extra_roots)
    return context


def _trust(context: ssl.SSLContext, roots: tuple[str, ...]) -> None:
    for pem in roots:
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError, TypeError) as error:
            raise ConfigError("a trusted certificate is not readable PEM") from error


async def _read(response: Any, max_body: int, what: str) -> bytes:
    length = response.content_length
    if length is not None and length > max_body:
        raise LimitError(f"answer to {what} has {length} bytes, at most {max_body} are read")
    if length is not None:
        whole: bytes = await response.content.read()
        return whole
    content = bytearray()
    while chunk := await response.content.readany():
        content += chunk
        if len(content) > max_body:
            raise LimitError(f"answer to {what} has more than {max_body} bytes")
    return bytes(content)


def _headers(response: Any) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        key = name.lower()
        if key in headers:
            separator = "\n" if key == "set-cookie" else ", "
            value = f"{headers[key]}{separator}{value}"
        headers[key] = value
    return headers


def _describe(method: str, url: str) -> str:
    """The request without user, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_usable = is_usable and parts.port != 0
    except ValueError as error:
        raise InvalidInputError("not an http or https URL") from error
    if not is_usable:
        raise InvalidInputError("not an http or https URL")
    host = parts.netloc.rpartition("@")[2]
    return f"{method} {parts.scheme}://{host}{parts.path}"


class _Translated:
    """A block that turns the library's errors into ours; a bug stays what it is."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, GuestError):
            ours = _our_error(error, self._what)
            if ours is not None:
                raise ours from error


def _our_error(error: Exception, what: str) -> GuestError | None:
    import aiohttp

    text = f"{what}: {foreign_text(error)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(text)
    unreached = (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientHttpProxyError,
    )
    if isinstance(error, unreached):
        return UnreachableError(text)
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidInputError(text)
    if isinstance(error, aiohttp.ClientResponseError):
        return PeerError(text)
    if isinstance(error, aiohttp.ClientError | OSError):
        return UnavailableError(text)
    return None
