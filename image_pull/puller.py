"""Pulls images: reference to places, place to manifest, policy, layers, bundle.

Source: docs/spec/image-pull.md, sections 1, 4, 9.1, 16 and 18.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from guest.deadline import Deadline, boot_seconds
from guest.errors import (
    ConfigError,
    DeadlineError,
    DecodeError,
    GuestError,
    InvalidInputError,
    LimitError,
    PlatformError,
)
from guest.rpc.status import Code
from image_pull.config import ImageConfig
from image_pull.image_config import ImageDocument, check_runs_here, parse_image_config
from image_pull.layer_fetch import LayerFetcher, run_to_end
from image_pull.manifest import MAX_DOCUMENT
from image_pull.observer import PullObserver, Unobserved, code_after
from image_pull.plan import PlannedLayer, plan_layers
from image_pull.progress import LoggedProgress, Progress
from image_pull.reference import ImageReference
from image_pull.registry.auth import Credentials
from image_pull.registry.client import RegistryClient
from image_pull.registry.mirrors import PullTask, pull_tasks
from image_pull.resolve import ResolvedManifest, resolve_manifest
from image_pull.runtime_spec import User, runtime_spec
from image_pull.settings import Settings
from image_pull.signature.evaluation import Candidate
from image_pull.store.bundle import Bundles
from image_pull.store.layers import LayerKey, StoredLayer
from image_pull.store.room import Room, is_lack_of_room
from image_pull.wording import (
    BUNDLE,
    ILLEGAL_REFERENCE,
    INTERNAL,
    MANIFEST,
    NO_LEGAL_TASK,
    PULLING,
    all_failed,
    explain,
    reworded,
)

log = logging.getLogger(__name__)

T = TypeVar("T")


class Registries(Protocol):
    """Gives a client for a repository; kept, so that tokens are."""

    def client(self, task: PullTask, credentials: Credentials | None) -> RegistryClient:
        """The client for the task's repository.

        Raises:
            ConfigError: trust anchors or proxies are malformed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What the first pull sets up and all pulls share.

    Attributes:
        settings: credentials, policy, rules.
        fetcher: brings layers into the store.
        bundles: makes root file systems of them.
        room: sees that layers fit and stay as long as they are needed.
    """

    settings: Settings
    fetcher: LayerFetcher
    bundles: Bundles
    room: Room


class Workshops(Protocol):
    """Sets up on the first pull; a failure is not remembered."""

    def prepare(self) -> None:
        """Have on its way what takes long to start; touches no file."""

    async def ready(self, deadline: Deadline) -> Workshop:
        """The one workshop.

        Raises:
            GuestError: it cannot be set up, with the peer's text.
        """
        ...

    async def close(self) -> None:
        """Let go of all of it."""


class ImagePuller:
    """Pulls any number of images at a time."""

    def __init__(
        self,
        config: ImageConfig,
        *,
        workshops: Workshops,
        registries: Registries,
        pool: ThreadPoolExecutor,
        architecture: str,
        user_of: Callable[[Path, str], User],
        observer: PullObserver = Unobserved(),  # noqa: B008  # has no state
    ) -> None:
        """Pull as `config` says; no file is touched before the first pull.

        Args:
            config: the `[image]` table.
            workshops: sets up.
            registries: gives clients.
            pool: runs what blocks.
            architecture: Go's name of the guest's.
            user_of: numbers for the `User` of an image, looked up in its root file system.
            observer: told of every pull.
        """
        self._config = config
        self._workshops = workshops
        self._registries = registries
        self._pool = pool
        self._architecture = architecture
        self._user_of = user_of
        self._observer = observer
        self._busy: set[Path] = set()
        self._workshop: Workshop | None = None

    async def pull(
        self, image: str, bundle: Path, *, deadline: Deadline, progress: Progress | None = None
    ) -> str:
        """Make `bundle` of `image`.

        Args:
            image: reference as the caller has it; hostile.
            bundle: absolute path of the directory that gets `rootfs` and `config.json`.
            deadline: for all of it; may be unlimited, since 60 s without a byte end a pull.
            progress: told of every layer.

        Returns:
            `sha256:` digest of the platform's manifest.

        Raises:
            DeadlineError: the deadline passed.
            GuestError: it cannot be pulled; the text is what clients look for, without `[CDH]`.
                Nothing is left at the mount point, and nothing half in the store.
        """
        started, code = boot_seconds(), Code.OK
        try:
            return await self._pull(image, bundle, deadline, progress)
        except BaseException as error:
            code = code_after(error)
            raise
        finally:
            self._observer.pull_ended(code, boot_seconds() - started)

    async def _pull(
        self, image: str, bundle: Path, deadline: Deadline, progress: Progress | None
    ) -> str:
        try:
            reference = ImageReference.parse(image)
        except DecodeError as error:
            raise InvalidInputError(f"{ILLEGAL_REFERENCE}: {error}") from error
        async with deadline.limit(f"the pull of {reference}"):
            workshop = self._workshop = await self._workshops.ready(deadline)
            try:
                tasks = pull_tasks(reference, workshop.settings.rules)
            except DecodeError as error:
                raise InvalidInputError(f"{NO_LEGAL_TASK}: {error}") from error
            async with self._alone(bundle):
                return await self._try_all(
                    _Request(image, reference, bundle, deadline, progress), tasks, workshop
                )

    def prepare(self) -> None:
        """Have the unpack server on its way before the first pull."""
        self._workshops.prepare()

    async def discard(self, bundle: Path) -> None:
        """Undo a pull that succeeded, for a caller whose own next step failed.

        Raises:
            GuestError: something of the bundle stays.
        """
        workshop = await self._workshops.ready(Deadline.after(10))
        await self._blocking(workshop.bundles.discard, bundle)

    async def tidy(self) -> None:
        """Give back directories of containers that are gone, and old layers; never fails."""
        if self._workshop is not None:
            await self._blocking(self._workshop.room.tidy)

    async def close(self) -> None:
        """Let go of connections, store and unpack server; no pull may be under way."""
        await self._workshops.close()

    @contextlib.asynccontextmanager
    async def _alone(self, bundle: Path) -> AsyncIterator[None]:
        if bundle in self._busy:
            raise InvalidInputError(f"Image Pull error: {BUNDLE}: another pull makes {bundle}")
        self._busy.add(bundle)
        try:
            yield
        finally:
            self._busy.discard(bundle)

    async def _try_all(
        self, request: "_Request", tasks: tuple[PullTask, ...], workshop: Workshop
    ) -> str:
        failures: list[tuple[str, GuestError]] = []
        for task in tasks:
            try:
                return await self._pull_from(request, task, workshop)
            except GuestError as error:
                if request.deadline.is_over():
                    raise DeadlineError(f"no time left for the pull of {task.reference}") from error
                failures.append((str(task.reference), error))
                log.debug(
                    "image could not be pulled from one place",
                    extra={"reference": str(task.reference), "kind": task.kind},
                )
        raise all_failed(request.image, failures) from failures[-1][1]

    async def _pull_from(self, request: "_Request", task: PullTask, workshop: Workshop) -> str:
        try:
            await self._blocking(workshop.bundles.check_free, request.bundle)
        except GuestError as error:
            raise reworded(BUNDLE, error) from error
        client = self._client(task, workshop.settings)
        found = await self._resolve(client, request, task)
        gate = workshop.settings.gate
        candidate = Candidate(reference=task.reference, digests=found.digests, repository=client)
        await gate.check(candidate, request.deadline)
        if self._config.evaluate_original_reference:
            original = replace(candidate, reference=request.reference)
            await gate.check(original, request.deadline)
        document, planned = await self._plan(client, request, found)
        wanted = {workshop.fetcher.key(each): each.descriptor.size for each in planned}
        with workshop.room.holding(wanted):
            layers = await self._fetch(client, request, workshop, planned, wanted)
            spec = functools.partial(self._spec, document)
            assemble = functools.partial(workshop.bundles.assemble, request.bundle, layers, spec)
            await self._assemble(workshop.bundles, assemble, request.bundle)
        return str(found.digest)

    async def _fetch(
        self,
        client: RegistryClient,
        request: "_Request",
        workshop: Workshop,
        planned: Sequence[PlannedLayer],
        wanted: Mapping[LayerKey, int],
    ) -> list[StoredLayer]:
        """Have the layers, after it is known that they can fit."""
        try:
            forecast = await self._blocking(workshop.room.make, wanted)
            self._observer.pull_planned(forecast.missing, forecast.needed)
            progress = LoggedProgress(
                str(request.reference),
                layers=len(planned),
                needed=forecast.needed,
                deadline=request.deadline,
                inner=request.progress,
            )
            bring = functools.partial(
                workshop.fetcher.fetch,
                client,
                planned,
                at_once=self._config.max_concurrent_layer_downloads_per_image,
                progress=progress,
                deadline=request.deadline,
            )
            layers = await self._within_room(workshop, wanted, bring)
        except GuestError as error:
            raise reworded(PULLING + explain(error), error) from error
        progress.end()
        return layers

    async def _within_room(
        self,
        workshop: Workshop,
        wanted: Mapping[LayerKey, int],
        bring: Callable[[], Awaitable[list[StoredLayer]]],
    ) -> list[StoredLayer]:
        """Bring layers; when the store is full, a second time after all that can go is gone."""
        try:
            return await bring()
        except GuestError as error:
            if not is_lack_of_room(error):
                raise
        await self._blocking(functools.partial(workshop.room.make, wanted, everything=True))
        try:
            return await bring()
        except GuestError as error:
            if not is_lack_of_room(error):
                raise
            raise await self._blocking(workshop.room.lack, wanted) from error

    def _client(self, task: PullTask, settings: Settings) -> RegistryClient:
        credentials = None
        if settings.auth is not None:
            try:
                credentials = settings.auth.find(task.reference)
            except DecodeError as error:
                raise PlatformError(
                    f"Illegal registry auth for image {task.reference} from auth config: {error}"
                ) from None
        try:
            return self._registries.client(task, credentials)
        except ConfigError as error:
            raise PlatformError(INTERNAL) from error

    async def _resolve(
        self, client: RegistryClient, request: "_Request", task: PullTask
    ) -> ResolvedManifest:
        try:
            return await resolve_manifest(
                client, task.reference, self._architecture, request.deadline
            )
        except GuestError as error:
            raise reworded(PULLING + MANIFEST + explain(error), error) from error

    async def _plan(
        self, client: RegistryClient, request: "_Request", found: ResolvedManifest
    ) -> tuple[ImageDocument, tuple[PlannedLayer, ...]]:
        config = found.manifest.config
        try:
            if config.size > MAX_DOCUMENT:
                raise LimitError(f"image configuration has {config.size} bytes")
            body = await client.small_blob(config, request.deadline)
        except GuestError as error:
            raise reworded(PULLING + MANIFEST + explain(error), error) from error
        try:
            document = parse_image_config(body)
            if document.os != "linux":
                raise InvalidInputError(f"{BUNDLE}: image is for {document.os[:40]}, not linux")
            diff_ids = check_runs_here(document, found.manifest, self._architecture)
        except DecodeError as error:
            raise reworded(f"{INTERNAL}: {explain(error)}", error) from error
        try:
            return document, plan_layers(found.manifest, diff_ids)
        except GuestError as error:
            raise reworded(PULLING + explain(error), error) from error

    def _spec(self, document: ImageDocument, rootfs: Path) -> bytes:
        user = User()
        if document.config is not None and document.config.user:
            user = self._user_of(rootfs, document.config.user)
        return runtime_spec(document, user)

    async def _assemble(self, bundles: Bundles, assemble: Callable[[], None], bundle: Path) -> None:
        """Make the bundle; a caller that is cancelled meanwhile finds nothing of it."""
        finished = False

        def make() -> None:
            nonlocal finished
            assemble()
            finished = True

        try:
            await run_to_end(self._pool, make)
        except asyncio.CancelledError:
            if finished:
                with contextlib.suppress(GuestError):  # the pull is being cancelled anyway
                    await self._blocking(bundles.discard, bundle)
            raise
        except GuestError as error:
            raise reworded(BUNDLE, error) from error

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        return await run_to_end(self._pool, functools.partial(function, *arguments))


@dataclass(frozen=True, slots=True)
class _Request:
    """One call of `pull`."""

    image: str
    reference: ImageReference
    bundle: Path
    deadline: Deadline
    progress: Progress | None
