"""Brings the layers of images into the store: each once, several at a time, bottom first.

Source: docs/spec/image-pull.md, sections 10.4, 11 and 16; docs/ARCHITECTURE.md, decisions 6, 7.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from guest.crypto.digest import Digest
from guest.deadline import Deadline, boot_seconds
from guest.errors import GuestError, first_failure
from guest.rpc.status import Code
from guest.secret import Secret
from guest.single_flight import SingleFlight
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.layers.record import LayerRecord
from image_pull.observer import LayerOutcome, PullObserver, Unobserved, code_after
from image_pull.ocicrypt.cipher import LayerDecryptor
from image_pull.ocicrypt.decrypt import layer_decryptor
from image_pull.ocicrypt.protocol import KeyUnwrapper
from image_pull.plan import PlannedLayer, largest_first
from image_pull.progress import Progress
from image_pull.registry.client import RegistryClient
from image_pull.registry.transport import closed_after
from image_pull.store.layers import TREE, LayerKey, LayerStore, StoredLayer
from image_pull.wording import DECRYPT, LAYER_TEXTS, STREAM, UNPACK, explain, reworded

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE: Final = 60.0
"""Seconds without a byte or an entry after which a layer has failed."""

UNWRAP_SECONDS: Final = 60.0
"""Seconds that one layer's key may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What opens encrypted layers.

    Attributes:
        unwrapper: answers for key providers; None where there is none.
        private_keys: PEM texts for JWE-wrapped layer keys.
    """

    unwrapper: KeyUnwrapper | None
    private_keys: tuple[Secret, ...] = ()


class Pipeline(Protocol):
    """What turns the bytes of a blob into a verified tree; see `LayerPipeline`."""

    def start(self) -> None:
        """Prepare for layers while something else is awaited."""

    async def unpack(
        self,
        chunks: AsyncIterator[bytes],
        descriptor: LayerDescriptor,
        target: Path,
        *,
        decryptor: LayerDecryptor | None,
        diff_id: Digest,
        deadline: Deadline,
        idle: float,
    ) -> LayerRecord:
        """Make `target` the layer's tree, or raise and leave nothing."""
        ...

    async def close(self) -> None:
        """End it."""


Finish = Callable[[LayerRecord, Path, Sequence[Path]], None]
"""Makes of a layer's tree what an overlay needs: record, tree, trees below it, topmost first."""


class LayerFetcher:
    """All layers under way in this process."""

    def __init__(
        self,
        *,
        layers: LayerStore,
        pipeline: Pipeline,
        keys: Keys,
        pool: ThreadPoolExecutor,
        finish: Finish | None,
        observer: PullObserver = Unobserved(),  # noqa: B008  # has no state
    ) -> None:
        """Fetch into a store.

        Args:
            layers: the store.
            pipeline: unpacks.
            keys: opens encrypted layers.
            pool: runs what blocks.
            finish: makes layers fit to be mounted; None where they are copied together.
            observer: told of every layer.
        """
        self._layers = layers
        self._pipeline = pipeline
        self._keys = keys
        self._pool = pool
        self._finish = finish
        self._observer = observer
        self._flights: SingleFlight[StoredLayer] = SingleFlight()
        self._watchers: dict[str, list[Progress]] = {}

    async def fetch(
        self,
        client: RegistryClient,
        planned: Sequence[PlannedLayer],
        *,
        at_once: int,
        progress: Progress | None,
        deadline: Deadline,
    ) -> list[StoredLayer]:
        """Have all layers in the store; gives them bottom first, begins with the largest.

        Args:
            client: for the repository of the blobs.
            planned: bottom first.
            at_once: layers under way at a time.
            progress: told of every step.
            deadline: for this caller's wait.

        Raises:
            GuestError: the first that went wrong; good layers stay in the store.
        """
        job = _Job(client, tuple(planned), asyncio.Semaphore(at_once))
        try:
            with self._watched(planned, progress):
                async with deadline.limit("the layers of the image"):
                    async with asyncio.TaskGroup() as group:
                        for number in largest_first(planned):
                            group.create_task(self._have(job, number), name=f"layer {number}")
        except ExceptionGroup as error:
            failure = first_failure(error)
            raise failure from failure.__cause__
        return [job.stored[number] for number in range(len(planned))]

    @contextlib.contextmanager
    def _watched(
        self, planned: Sequence[PlannedLayer], progress: Progress | None
    ) -> Iterator[None]:
        names = [str(each.descriptor.digest) for each in planned]
        if progress is None:
            yield
            return
        for name in names:
            self._watchers.setdefault(name, []).append(progress)
            progress.layer_state(name, "waiting")
        try:
            yield
        finally:
            for name in names:
                self._watchers[name].remove(progress)
                if not self._watchers[name]:
                    del self._watchers[name]

    def _tell(self, digest: str, state: str) -> None:
        for watcher in self._watchers.get(digest, ()):
            watcher.layer_state(digest, state)

    async def _have(self, job: "_Job", number: int) -> StoredLayer:
        """Join or begin the one flight of this layer on top of those below."""
        if number not in job.stored:
            chain = job.planned[number].chain
            job.stored[number] = await self._flights.run(chain, lambda: self._obtain(job, number))
        return job.stored[number]

    def key(self, layer: PlannedLayer) -> LayerKey:
        """Under which the store has it."""
        return LayerKey(
            blob=layer.descriptor.digest,
            diff_id=layer.diff_id,
            encrypted=layer.encrypted,
            finished=self._finish is not None,
            chain=layer.chain,
        )

    async def _obtain(self, job: "_Job", number: int) -> StoredLayer:
        started = boot_seconds()
        try:
            stored, outcome = await self._find_or_bring(job, number)
        except BaseException as error:
            seconds = boot_seconds() - started
            self._observer.layer_ended(LayerOutcome.FAILED, code_after(error), seconds, 0)
            raise
        unpacked = stored.record.tar_bytes if outcome is LayerOutcome.STORED else 0
        self._observer.layer_ended(outcome, Code.OK, boot_seconds() - started, unpacked)
        return stored

    async def _find_or_bring(self, job: "_Job", number: int) -> tuple[StoredLayer, LayerOutcome]:
        layer = job.planned[number]
        digest = str(layer.descriptor.digest)
        key = self.key(layer)
        # Also for a layer at hand: whoever may not have its key must not get its content.
        decryptor = await self._decryptor(layer)
        found = await self._blocking(self._layers.find, key)
        if found is not None:
            self._tell(digest, "reused")
            return found, LayerOutcome.REUSED
        staged = await self._stage()
        try:
            async with job.slots:
                self._tell(digest, "downloading")
                record = await self._unpack(job.client, layer, staged / TREE, decryptor)
                # The next layer's bytes come when these are safe, unless others must come first.
                alone = self._finish is None or not record.implicit
                stored = await self._publish(key, staged, record, []) if alone else None
            if stored is None:
                below = [await self._have(job, lower) for lower in range(number)]
                stored = await self._publish(key, staged, record, below)
        finally:
            await self._blocking(self._layers.drop, staged)
        self._tell(digest, "stored")
        return stored, LayerOutcome.STORED

    async def _stage(self) -> Path:
        """A new staging directory; nothing is left of it when this task is cancelled meanwhile."""
        made: list[Path] = []
        try:
            await self._blocking(lambda: made.append(self._layers.stage()))
        except asyncio.CancelledError:
            for staged in made:
                await self._blocking(self._layers.drop, staged)
            raise
        return made[0]

    async def _publish(
        self, key: LayerKey, staged: Path, record: LayerRecord, below: Sequence[StoredLayer]
    ) -> StoredLayer:
        if self._finish is not None:
            trees = [each.tree for each in reversed(below)]
            await self._blocking(self._finish, record, staged / TREE, trees)
        return await self._blocking(self._layers.publish, staged, key, record)

    async def _decryptor(self, layer: PlannedLayer) -> LayerDecryptor | None:
        if not layer.encrypted:
            return None
        try:
            return await layer_decryptor(
                pipeline_descriptor(layer),
                keys=self._keys.unwrapper,
                private_keys=self._keys.private_keys,
                deadline=Deadline.after(UNWRAP_SECONDS),
            )
        except GuestError as error:
            text = str(error) if str(error).startswith("Failed to decrypt layer") else DECRYPT
            raise reworded(text, error) from error

    async def _unpack(
        self,
        client: RegistryClient,
        layer: PlannedLayer,
        target: Path,
        decryptor: LayerDecryptor | None,
    ) -> LayerRecord:
        try:
            async with closed_after(self._chunks(client, layer)) as chunks:
                return await self._pipeline.unpack(
                    chunks,
                    pipeline_descriptor(layer),
                    target,
                    decryptor=decryptor,
                    diff_id=layer.diff_id,
                    deadline=Deadline.unlimited(),
                    idle=IDLE,
                )
        except GuestError as error:
            if str(error).startswith(LAYER_TEXTS):
                raise
            raise reworded(f"{UNPACK}: {error}", error) from error

    async def _chunks(self, client: RegistryClient, layer: PlannedLayer) -> AsyncIterator[bytes]:
        digest, done = str(layer.descriptor.digest), 0
        try:
            async with closed_after(client.blob(layer.descriptor, Deadline.unlimited())) as chunks:
                async for chunk in chunks:
                    done += len(chunk)
                    self._observer.bytes_received(len(chunk))
                    for watcher in self._watchers.get(digest, ()):
                        watcher.layer_bytes(digest, done, layer.descriptor.size)
                    yield chunk
        except GuestError as error:
            raise reworded(f"{STREAM}: {explain(error)}", error) from error

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        """Run in the pool, to its end also when this task is cancelled."""
        return await run_to_end(self._pool, functools.partial(function, *arguments))


async def run_to_end(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    """Run what blocks in the pool; a cancellation is raised once it has ended."""
    future = asyncio.get_running_loop().run_in_executor(pool, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait((future,))
        raise


@dataclass(frozen=True, slots=True)
class _Job:
    """One image's layers."""

    client: RegistryClient
    planned: tuple[PlannedLayer, ...]
    slots: asyncio.Semaphore
    stored: dict[int, StoredLayer] = field(default_factory=dict)


def pipeline_descriptor(layer: PlannedLayer) -> LayerDescriptor:
    """What the pipeline knows of a blob."""
    return LayerDescriptor(
        media_type=layer.descriptor.media_type,
        digest=layer.descriptor.digest,
        size=layer.descriptor.size,
        annotations=layer.descriptor.annotations,
    )
