"""Fetches OCI artifacts, encrypted ones too, to a path: streamed, resumed, whole or not at all.

Source: docs/spec/image-pull.md, sections 4 to 9 and 11.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DecodeError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    PlatformError,
    first_failure,
)
from image_pull.artifact import ArtifactFile, artifact_files
from image_pull.config import ImageConfig
from image_pull.layer_fetch import UNWRAP_SECONDS, Keys, run_to_end
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.ocicrypt.cipher import LayerDecryptor
from image_pull.ocicrypt.decrypt import layer_decryptor
from image_pull.progress import LoggedProgress, Progress
from image_pull.reference import ImageReference
from image_pull.registry.client import RegistryClient
from image_pull.registry.mirrors import PullTask, pull_tasks
from image_pull.registry.transport import closed_after
from image_pull.resolve import resolve_manifest
from image_pull.settings import Settings, load_settings
from image_pull.signature.evaluation import Candidate
from image_pull.sources import Sources
from image_pull.store.destination import Destination
from image_pull.store.partial import BLOCK, Partial
from image_pull.wording import explain
from image_pull.workshop import RegistryPool

SETUP_SECONDS: Final = 60.0

T = TypeVar("T")


class ArtifactFetcher:
    """Fetches any number of artifacts."""

    def __init__(
        self,
        config: ImageConfig,
        *,
        sources: Sources,
        registries: RegistryPool,
        keys: Keys,
        pool: ThreadPoolExecutor,
        architecture: str,
    ) -> None:
        """Fetch as `config` says images are pulled: rules, credentials, policy.

        Args:
            config: the `[image]` table.
            sources: where policies and credentials come from.
            registries: gives clients; closed with the fetcher.
            keys: opens encrypted blobs.
            pool: runs what blocks; shut down with the fetcher.
            architecture: Go's name of the guest's, for artifacts by platform.
        """
        self._config = config
        self._sources = sources
        self._registries = registries
        self._keys = keys
        self._pool = pool
        self._architecture = architecture

    async def fetch(
        self, artifact: str, path: Path, *, deadline: Deadline, progress: Progress | None = None
    ) -> str:
        """Have the artifact at `path`: its one file, or a directory of its files.

        Args:
            artifact: reference; hostile.
            path: absolute, nothing is there; parents are made.
            deadline: for all of it; may be unlimited, since silence ends it.
            progress: told of every blob.

        Returns:
            `sha256:` digest of the manifest.

        Raises:
            DeadlineError: the deadline passed.
            GuestError: it cannot be had; `path` is as before, and what came is kept beside it.
        """
        try:
            reference = ImageReference.parse(artifact)
        except DecodeError as error:
            raise InvalidInputError(f"Illegal image reference: {error}") from error
        async with deadline.limit(f"the fetch of {reference}"):
            settings = await load_settings(
                self._config,
                self._sources,
                self._registries.transport,
                deadline.within(SETUP_SECONDS),
            )
            try:
                tasks = pull_tasks(reference, settings.rules)
            except DecodeError as error:
                raise InvalidInputError(f"{reference} cannot be fetched: {error}") from error
            with Destination(path).claimed() as destination:
                work = _Work(reference, destination, deadline, progress)
                return await self._try_all(work, tasks, settings)

    async def close(self) -> None:
        """Let go of connections and threads."""
        await self._registries.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _try_all(self, work: "_Work", tasks: tuple[PullTask, ...], settings: Settings) -> str:
        failures: list[tuple[PullTask, GuestError]] = []
        for task in tasks:
            try:
                return await self._fetch_from(work, task, settings)
            except GuestError as error:
                if work.deadline.is_over():
                    raise DeadlineError(f"no time left for {task.reference}") from error
                failures.append((task, error))
        text = "; ".join(f"{task.reference}: {explain(error)}" for task, error in failures)
        last = failures[-1][1]
        raise type(last)(f"{work.reference} could not be fetched: {text}") from last

    async def _fetch_from(self, work: "_Work", task: PullTask, settings: Settings) -> str:
        client = self._client(task, settings)
        found = await resolve_manifest(client, task.reference, self._architecture, work.deadline)
        candidate = Candidate(reference=task.reference, digests=found.digests, repository=client)
        await settings.gate.check(candidate, work.deadline)
        if self._config.evaluate_original_reference:
            original = replace(candidate, reference=work.reference)
            await settings.gate.check(original, work.deadline)
        files = artifact_files(found.manifest)
        needed = await self._blocking(work.destination.prepare, files)
        blobs = {file.descriptor.digest: file for file in files}
        shown = LoggedProgress(
            str(work.reference),
            layers=len(blobs),
            needed=needed,
            deadline=work.deadline,
            inner=work.progress,
        )
        slots = asyncio.Semaphore(self._config.max_concurrent_layer_downloads_per_image)
        try:
            async with asyncio.TaskGroup() as group:
                for file in blobs.values():
                    group.create_task(
                        self._blob(client, file, work, slots, shown),
                        name=f"blob {file.descriptor.digest}",
                    )
        except ExceptionGroup as error:
            failure = first_failure(error)
            raise failure from failure.__cause__
        await self._blocking(work.destination.publish, files)
        shown.end()
        return str(found.digest)

    def _client(self, task: PullTask, settings: Settings) -> RegistryClient:
        credentials = None
        if settings.auth is not None:
            try:
                credentials = settings.auth.find(task.reference)
            except DecodeError as error:
                raise PlatformError(f"credentials for {task.reference} are malformed") from error
        return self._registries.client(task, credentials)

    async def _blob(
        self,
        client: RegistryClient,
        file: ArtifactFile,
        work: "_Work",
        slots: asyncio.Semaphore,
        progress: Progress,
    ) -> None:
        """One blob; what an earlier fetch left is used if it is right, and else fetched anew."""
        digest = str(file.descriptor.digest)
        async with slots:
            progress.layer_state(digest, "downloading")
            try:
                if await self._attempt(client, file, work, progress):
                    progress.layer_state(digest, "stored")
                    return
                await self._attempt(client, file, work, progress)
            except OSError as error:
                raise PlatformError(f"file cannot be written: {error.strerror}") from error
            progress.layer_state(digest, "stored")

    async def _attempt(
        self, client: RegistryClient, file: ArtifactFile, work: "_Work", progress: Progress
    ) -> bool:
        """Whether the blob is there whole; False if what was there before was not its begin.

        Raises:
            IntegrityError: all that came now is another blob.
        """
        decryptor = await self._decryptor(file, work.deadline)
        path = work.destination.part(file)
        partial = await self._blocking(Partial, path, file.descriptor, decryptor)
        try:
            resumed = await self._blocking(partial.replay)
            try:
                await self._stream(client, file, work, partial, progress)
                await self._blocking(partial.finish)
            except IntegrityError:
                await self._blocking(partial.clear)
                if resumed:
                    return False
                raise
        finally:
            partial.close()
        return True

    async def _stream(
        self,
        client: RegistryClient,
        file: ArtifactFile,
        work: "_Work",
        partial: Partial,
        progress: Progress,
    ) -> None:
        descriptor, pieces, size = file.descriptor, list[bytes](), 0
        chunks = client.blob(descriptor, work.deadline, start=partial.offset)
        async with closed_after(chunks):
            async for chunk in chunks:
                pieces.append(chunk)
                size += len(chunk)
                if size >= BLOCK:
                    await self._blocking(partial.take, b"".join(pieces))
                    pieces, size = [], 0
                    progress.layer_bytes(str(descriptor.digest), partial.offset, descriptor.size)
        await self._blocking(partial.take, b"".join(pieces))
        progress.layer_bytes(str(descriptor.digest), partial.offset, descriptor.size)

    async def _decryptor(self, file: ArtifactFile, deadline: Deadline) -> LayerDecryptor | None:
        if not file.encrypted:
            return None
        return await layer_decryptor(
            LayerDescriptor(
                media_type=file.descriptor.media_type,
                digest=file.descriptor.digest,
                size=file.descriptor.size,
                annotations=file.descriptor.annotations,
            ),
            keys=self._keys.unwrapper,
            private_keys=self._keys.private_keys,
            deadline=deadline.within(UNWRAP_SECONDS),
        )

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        return await run_to_end(self._pool, functools.partial(function, *arguments))


@dataclass(frozen=True, slots=True)
class _Work:
    """One call of `fetch`."""

    reference: ImageReference
    destination: Destination
    deadline: Deadline
    progress: Progress | None
