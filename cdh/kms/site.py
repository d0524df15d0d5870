"""What all key management services of one hub share: credentials, connections, what they keep."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cdh.agent import AgentClient
from cdh.config import CdhConfig
from cdh.kms.files import CredentialFiles
from cdh.kms.proxies import make_proxies
from guest.deadline import Deadline
from guest.errors import UnavailableError
from guest.http import HttpClient
from guest.proxies import Proxies
from guest.version import VERSION

CREDENTIAL_FOLDERS: Final = ("kbs/kms-credential", "kms-credential")
"""Below the runtime directory, in order of looking; one folder a provider in each."""

MAX_IDLE_CLIENTS: Final = 8
"""Most HTTP clients that are kept without a user."""

T = TypeVar("T")


class _Pooled(msgspec.Struct):
    client: HttpClient
    users: int = 0


class KmsSite:
    """The surroundings of the key management services; one for the life of a hub.

    Args:
        config: of the hub.
        runtime_dir: credentials lie below it.
        agent: for services that ask for evidence; None where there is none.

    Attributes:
        config: of the hub.
        agent: as given.
    """

    def __init__(
        self, config: CdhConfig, runtime_dir: Path, agent: AgentClient | None = None
    ) -> None:
        self.config: Final = config
        self.agent: Final = agent
        self._runtime_dir = runtime_dir
        self._clients: dict[tuple[tuple[str, ...], bool, float], _Pooled] = {}
        self._kept: dict[type, object] = {}
        self._closed = False

    def credentials(self, provider: str, override: str | None) -> CredentialFiles:
        """Where a provider's credentials are.

        Args:
            provider: its name, a folder's too.
            override: the one directory to look in instead of the standard ones.
        """
        if override is not None:
            return CredentialFiles((Path(override),))
        return CredentialFiles(
            [self._runtime_dir / folder / provider for folder in CREDENTIAL_FOLDERS]
        )

    def keep(self, kind: type[T], make: Callable[[], T]) -> T:
        """The one `kind` of this hub, made when it is first asked for."""
        found = self._kept.get(kind)
        if not isinstance(found, kind):
            found = make()
            self._kept[kind] = found
        return found

    @asynccontextmanager
    async def http(
        self,
        deadline: Deadline,
        *,
        roots: tuple[str, ...] = (),
        direct: bool = False,
        connect_limit: float = 5.0,
    ) -> AsyncIterator[HttpClient]:
        """A client whose connections outlive the block; equal arguments share one.

        It is ready when the block begins: short deadlines inside are for the peer alone.

        Args:
            deadline: for loading the libraries.
            roots: PEM texts that are trusted besides the system's.
            direct: through no proxy.
            connect_limit: seconds for a TCP connection.

        Raises:
            ConfigError: a text is not PEM, or a configured proxy is no URL.
            UnavailableError: the hub is closing.
            DeadlineError: the libraries were not loaded in time.
        """
        key = (roots, direct, connect_limit)
        pooled = self._clients.get(key)
        if pooled is None:
            if self._closed:
                raise UnavailableError("the data hub is closing")
            pooled = _Pooled(self._make_client(roots, direct=direct, connect_limit=connect_limit))
            self._clients[key] = pooled
        pooled.users += 1
        try:
            await pooled.client.prepare(deadline)
            yield pooled.client
        finally:
            pooled.users -= 1
            await self._trim()

    async def close(self) -> None:
        """Close all connections; calls under way fail. May be called again."""
        self._closed = True
        self._kept.clear()
        while self._clients:
            await self._clients.popitem()[1].client.close()

    def _make_client(
        self, roots: tuple[str, ...], *, direct: bool, connect_limit: float
    ) -> HttpClient:
        proxies = Proxies() if direct else make_proxies(self.config.proxy)
        return HttpClient(
            user_agent=f"coco-guest/{VERSION}",
            extra_roots=roots,
            proxies=proxies,
            connect_limit=connect_limit,
        )

    async def _trim(self) -> None:
        idle = [key for key, pooled in self._clients.items() if not pooled.users]
        surplus = idle[: max(0, len(idle) - MAX_IDLE_CLIENTS)]
        for pooled in [self._clients.pop(key) for key in surplus]:
            await pooled.client.close()
