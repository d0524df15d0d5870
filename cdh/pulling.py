"""The image puller inside CDH: made at the first pull or while idle before it, then kept.

Nothing of it touches a file before the first pull: until then the work directory may still be
mounted over.

Source: docs/spec/image-pull.md 1.2.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import msgspec

from cdh.hub import Puller
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms.base import ResourceClient, parse_resource_uri
from guest.deadline import Deadline
from guest.secret import Secret
from image_pull.config import ImageConfig
from image_pull.observer import PullObserver
from image_pull.ocicrypt.protocol import KeyUnwrapper

TIDY_SECONDS: Final = 60.0
"""Seconds between two looks for what removed containers left in the store."""


class PullerResources:
    """The puller's own way to resources: this process's, without a call to itself."""

    def __init__(self, resources: ResourceClient) -> None:
        self._resources = resources

    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        """The bytes of `kbs://...`.

        Raises:
            GuestError: not such a URI, or as the source of resources says.
        """
        return await self._resources.fetch(parse_resource_uri(uri), deadline)


class ProviderFile(msgspec.Struct, frozen=True, kw_only=True):
    """An ocicrypt configuration that somebody else wrote: it says whom to ask for layer keys.

    Attributes:
        path: the file.
        own_address: where this hub listens, which the file may name too.
        grpc: whether it listens with gRPC.
    """

    path: Path
    own_address: str
    grpc: bool = False


class LatePuller:
    """Makes the puller when it is first asked for.

    Args:
        config: the `[image]` table in force.
        resources: for policy, credentials and registry rules.
        keys: for encrypted layers.
        observer: told of pulls, layers and the jail.
        providers: the file that names the key providers; None where this hub is the only one.
    """

    def __init__(
        self,
        config: ImageConfig,
        resources: ResourceClient,
        keys: LayerKeys,
        observer: PullObserver,
        providers: ProviderFile | None = None,
    ) -> None:
        self._config = config
        self._observer = observer
        self._resources = PullerResources(resources)
        self._keys = keys
        self._providers = providers
        self._let_go: Callable[[], Awaitable[None]] | None = None
        self._opening = asyncio.Lock()
        self._puller: _KeptPuller | None = None

    async def get(self) -> Puller:
        """The puller; the first call imports it, in a thread.

        Raises:
            GuestError: its configuration cannot be worked with; the next call tries again.
        """
        return await self._kept()

    async def _kept(self) -> "_KeptPuller":
        if self._puller is None:
            async with self._opening:
                if self._puller is None:
                    build = await asyncio.to_thread(_import_puller)
                    keys = await self._unwrapper()
                    self._puller = build(self._config, self._resources, keys, self._observer)
        return self._puller

    async def prepare(self) -> None:
        """Have the unpack server on its way before the first pull.

        Raises:
            GuestError: the configuration cannot be worked with.
        """
        (await self._kept()).prepare()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` give back what removed containers left: who unmounts it tells nobody."""
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(TIDY_SECONDS):
                    await stop.wait()
            if self._puller is not None and not stop.is_set():
                await self._puller.tidy()

    async def _unwrapper(self) -> KeyUnwrapper:
        """This hub, or the providers of the file."""
        if self._providers is None:
            return self._keys
        found = await asyncio.to_thread(_open_providers, self._providers, self._keys)
        self._let_go = found.close
        return found

    async def close(self) -> None:
        """Stop what is under way, if there ever was a pull."""
        if self._puller is not None:
            await self._puller.close()
        if self._let_go is not None:
            await self._let_go()


class _Providers(KeyUnwrapper, Protocol):
    async def close(self) -> None:
        """Let go of connections."""
        ...


class _KeptPuller(Puller, Protocol):
    def prepare(self) -> None:
        """Have on its way what takes long to start."""
        ...

    async def tidy(self) -> None:
        """Give back what nobody uses any more."""
        ...


_Build: TypeAlias = Callable[
    [ImageConfig, PullerResources, KeyUnwrapper, PullObserver], _KeptPuller
]


def _open_providers(file: ProviderFile, own: KeyUnwrapper) -> _Providers:
    """Runs in a thread, for its imports."""
    from image_pull.ocicrypt.configured import ConfiguredProviders
    from image_pull.ocicrypt.providers import own_entry

    address = own_entry(file.own_address, grpc=file.grpc)
    return ConfiguredProviders(file.path, own=own, own_address=address)


def _import_puller() -> _Build:
    """Runs in a thread: the import takes long, and other calls go on meanwhile."""
    from image_pull.component import build_puller

    return lambda config, resources, keys, observer: build_puller(
        config, resources=resources, keys=keys, observer=observer
    )
