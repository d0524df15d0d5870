"""A cloud on loopback: clients use real host names, and a proxy leads them all to one server."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Faults
from guest_simulator.reply import Reply
from guest_simulator.request_log import RequestLog
from guest_simulator.service import HttpService, Incoming
from guest_simulator.tunnel import Tunnel


class Cloud:
    """One server for all hosts of a cloud: `async with Cloud(...) as cloud`.

    Args:
        name: of the authority that vouches for the hosts.
        hosts: what the certificate stands for.
        handle: answers.

    Attributes:
        ca: PEM of the authority of all hosts.
    """

    def __init__(
        self, name: str, hosts: tuple[str, ...], handle: Callable[[Incoming], Awaitable[Reply]]
    ) -> None:
        authority = CertificateAuthority.create(name)
        self.ca = authority.pem
        self._service = HttpService(handle, tls=authority.issue(*hosts).context())
        self._tunnel: Tunnel | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._service)
        self._tunnel = Tunnel("127.0.0.1", self._service.port)
        await self._stack.enter_async_context(self._tunnel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def proxy(self) -> str:
        """The proxy that leads every host here."""
        assert self._tunnel is not None, "the cloud is not up"
        return self._tunnel.url

    @property
    def targets(self) -> list[str]:
        """`host:port` of every connection, oldest first."""
        assert self._tunnel is not None, "the cloud is not up"
        return self._tunnel.targets

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self._service.faults

    @property
    def requests(self) -> RequestLog:
        """What was asked."""
        return self._service.requests
