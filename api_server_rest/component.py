"""Builds the REST shim from its configuration and channels to AA and CDH.

Source: docs/spec/api-server-rest.md 1.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from api_server_rest.backend import Backends
from api_server_rest.config import RestConfig
from api_server_rest.handler import Observer, RestHandler
from guest.errors import ConfigError, InvalidInputError, PlatformError
from guest.rpc.address import TcpAddress, parse_tcp
from guest.rpc.method import Channel

log = logging.getLogger(__name__)

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

DRAIN_SECONDS: Final = 5.0
"""Seconds that requests under way get when the shim stops."""


class ApiServerRest:
    """The service.

    Attributes:
        name: for the supervisor.
        address: where it listens, as `ip:port`; with the chosen port once it is bound.
    """

    name: Final = "api-server-rest"

    def __init__(
        self, config: RestConfig, aa: Channel, cdh: Channel, *, observer: Observer | None = None
    ) -> None:
        """Construct; neither backend need be there yet.

        Args:
            config: settings.
            aa: leads to AA; closed at the end.
            cdh: leads to CDH; closed at the end.
            observer: counts requests.

        Raises:
            ConfigError: `bind` is no numeric address with a port.
        """
        try:
            self._bind = parse_tcp(config.bind)
        except InvalidInputError as error:
            raise ConfigError(f"bind address: {error}") from error
        self.address = self._bind.netloc
        self._backends = Backends(config, aa, cdh)
        self._handler = RestHandler(config, self._backends, observer)

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Listen at once, load the HTTP library, serve until `stop`, finish what is under way.

        Connections that come before the library is loaded wait in the backlog.

        Raises:
            PlatformError: the address cannot be had.
        """
        with _listen(self._bind) as listening:
            host, port = listening.getsockname()[:2]
            self.address = TcpAddress(host, port).netloc
            make_server = await asyncio.to_thread(_import_server)
            server = make_server(self._handler)
            await server.serve(listening)
            log.info("serving", extra={"address": self.address})
            ready()
            try:
                await stop.wait()
            finally:
                await server.drain(DRAIN_SECONDS)
                await self._backends.close()


class _HttpServer(Protocol):
    async def serve(self, listening: socket.socket) -> None: ...

    async def drain(self, grace: float) -> None: ...


def _import_server() -> Callable[[RestHandler], _HttpServer]:
    """Runs in a thread: the import takes long, and `guest serve` has other services."""
    import guest.aiohttp_import  # noqa: F401  # before aiohttp is imported
    from api_server_rest.app import HttpServer

    return HttpServer


def _listen(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PlatformError(f"cannot listen on {address.netloc}: {error.strerror}") from error
    return sock
