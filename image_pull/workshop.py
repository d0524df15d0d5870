"""What the first pull sets up: settings, store, unpack pipeline; tried anew until it works.

Source: docs/spec/image-pull.md, section 1.2; docs/ARCHITECTURE.md, decision 7.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from guest.deadline import Deadline
from guest.errors import GuestError, PlatformError
from guest.http import HttpClient
from guest.single_flight import SingleFlight
from image_pull.config import ImageConfig
from image_pull.layer_fetch import Finish, Keys, LayerFetcher, Pipeline, run_to_end
from image_pull.observer import PullObserver, Unobserved
from image_pull.puller import Workshop
from image_pull.registry.auth import Credentials
from image_pull.registry.client import RegistryClient
from image_pull.registry.mirrors import PullTask
from image_pull.registry.transport import Transport
from image_pull.settings import load_settings
from image_pull.sources import Sources
from image_pull.store.bundle import Bundles, Merge
from image_pull.store.layers import LayerStore
from image_pull.store.meta import Store, read_boot_id
from image_pull.store.mountinfo import MOUNTINFO
from image_pull.store.overlay import Overlays
from image_pull.store.protection import is_protected
from image_pull.store.room import Room
from image_pull.wording import CLIENT, explain, reworded

log = logging.getLogger(__name__)

SETUP_SECONDS: Final = 60.0
"""Seconds that setting up may take; all first pulls share it and bound their own waits."""

MAX_CLIENTS: Final = 256
"""Most repositories whose tokens are kept."""


class RegistryPool:
    """Clients by repository, over one HTTP client that is made when first asked for."""

    def __init__(self, make_http: Callable[[], HttpClient]) -> None:
        """Ask `make_http` once."""
        self._make_http = make_http
        self._http: HttpClient | None = None
        self._clients: OrderedDict[tuple[str, str], RegistryClient] = OrderedDict()

    def client(self, task: PullTask, credentials: Credentials | None) -> RegistryClient:
        """The client for the task's repository.

        Raises:
            ConfigError: trust anchors or proxies are malformed.
        """
        transport = self.transport()
        key = (task.scheme, task.reference.name)
        client = self._clients.pop(key, None)
        if client is None:
            client = RegistryClient(transport, task.reference, task.scheme, credentials)
        self._clients[key] = client
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return client

    def transport(self) -> Transport:
        """Requests over the pool's connections, to whatever host.

        Raises:
            ConfigError: trust anchors or proxies are malformed.
        """
        if self._http is None:
            self._http = self._make_http()
        return Transport(self._http)

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()


class LazyWorkshop:
    """The one workshop of a puller."""

    def __init__(
        self,
        config: ImageConfig,
        *,
        sources: Sources,
        registries: RegistryPool,
        keys: Keys,
        pool: ThreadPoolExecutor,
        compute: ThreadPoolExecutor,
        pipeline: Pipeline,
        finish: Finish,
        merge: Merge,
        observer: PullObserver = Unobserved(),  # noqa: B008  # has no state
    ) -> None:
        """Touch nothing yet.

        Args:
            config: the `[image]` table.
            sources: where policies and credentials come from.
            registries: closed with the workshop.
            keys: opens encrypted layers.
            pool: runs what blocks; shut down with the workshop.
            compute: the pipeline's; shut down with the workshop.
            pipeline: unpacks; closed with the workshop.
            finish: makes layers fit to be mounted.
            merge: copies layers together where nothing can be mounted.
            observer: told of every layer.
        """
        self._config = config
        self._sources = sources
        self._registries = registries
        self._keys = keys
        self._pool = pool
        self._compute = compute
        self._pipeline = pipeline
        self._finish = finish
        self._merge = merge
        self._observer = observer
        self._store: Store | None = None
        self._workshop: Workshop | None = None
        self._flights: SingleFlight[Workshop] = SingleFlight()

    def prepare(self) -> None:
        """Have the unpack server on its way; a failure shows when a layer needs it."""
        self._pipeline.start()

    async def ready(self, deadline: Deadline) -> Workshop:
        """The workshop, set up by the first call that succeeds.

        Raises:
            GuestError: it cannot be set up, with the peer's text.
        """
        if self._workshop is None:
            async with deadline.limit("the first pull's preparations"):
                self._workshop = await self._flights.run("set up", self._set_up)
        workshop = self._workshop
        await run_to_end(self._pool, workshop.bundles.overlays.reclaim)
        return workshop

    async def _set_up(self) -> Workshop:
        # takes another core while this one reads settings and asks for the manifest
        self._pipeline.start()
        settings = await load_settings(
            self._config,
            self._sources,
            self._registries.transport,
            Deadline.after(SETUP_SECONDS),
        )
        try:
            store, why_not = await run_to_end(self._pool, self._open_store)
        except GuestError as error:
            text = f"{CLIENT}Initialize layer store failed: {explain(error)}"
            raise reworded(text, error) from error
        if why_not is not None:
            log.warning(
                "overlays cannot be mounted, root file systems are copied",
                extra={"reason": why_not},
            )
        self._store = store
        layers, overlays = LayerStore(store), Overlays(store)
        fetcher = LayerFetcher(
            layers=layers,
            pipeline=self._pipeline,
            keys=self._keys,
            pool=self._pool,
            finish=self._finish if why_not is None else None,
            observer=self._observer,
        )
        bundles = Bundles(overlays=overlays, mounts=why_not is None, merge=self._merge)
        await run_to_end(self._pool, bundles.sweep)
        room = Room(
            store=store,
            layers=layers,
            overlays=overlays,
            keep_seconds=self._config.keep_unused_layers_seconds,
            max_bytes=self._config.max_unpacked_bytes,
        )
        return Workshop(settings=settings, fetcher=fetcher, bundles=bundles, room=room)

    def _open_store(self) -> tuple[Store, str | None]:
        root = Path(self._config.work_dir)
        if not root.is_absolute():
            raise PlatformError(f"work directory {self._config.work_dir[:200]!r} is not absolute")
        store = Store.open(root, read_boot_id())
        try:
            self._check_protection(root)
            return store, Overlays(store).why_not()
        except BaseException:
            store.close()
            raise

    def _check_protection(self, root: Path) -> None:
        try:
            protected = is_protected(root, Path(MOUNTINFO).read_bytes())
        except OSError as error:
            raise PlatformError("protection of the work directory cannot be seen") from error
        if protected:
            return
        if self._config.require_protected_store:
            raise PlatformError(
                f"work directory {root} is neither in memory nor on a disk encrypted in this boot"
            )
        log.warning(
            "work directory is neither in memory nor on a disk encrypted in this boot",
            extra={"work_dir": str(root)},
        )

    async def close(self) -> None:
        """Let go of connections, unpack server, store and threads."""
        await self._registries.close()
        await self._pipeline.close()
        if self._store is not None:
            self._store.close()
        for pool in (self._pool, self._compute):
            pool.shutdown(wait=False, cancel_futures=True)
