"""Use case: copy an image, encrypting its layers on the way.

Blobs stream through in chunks; neither memory nor disk holds a layer. The destination's root
document comes last, so what is half done is never visible under the destination's name.

Source: docs/spec/ocicrypt.md 1, 2 and 7; OCI image-spec "Image Manifest", "Image Index".
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    IntegrityError,
    InvalidInputError,
    UnsupportedError,
    first_failure,
)
from guest.secret import Secret
from image_pull.manifest import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    IndexEntry,
    Manifest,
    parse_document,
    parse_object,
)
from image_pull.ocicrypt.encrypt import (
    OF_DOCKER,
    LayerEncryption,
    encrypted_media_type,
    is_encrypted,
    wrap_for,
)
from image_pull.ocicrypt.wrapping import KeyWrapper
from image_pull.transfer import Document, ImageDestination, ImageSource

LAYERS_AT_A_TIME: Final = 3
WRAP_SECONDS: Final = 60.0
"""Seconds that wrapping one layer's key may take, a registration with the KBS included."""

MAX_INDEX_DEPTH: Final = 2
"""An index, and indexes in it."""

MAX_INDEX_ENTRIES: Final = 256

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
REFERENCE_TYPE: Final = "vnd.docker.reference.type"
"""Annotation of index entries that describe other entries instead of being images."""

T = TypeVar("T")

UnwrapOptions = Callable[[Mapping[str, str], Deadline], Awaitable[Secret]]
"""From a layer's annotations to its private options."""


class ImageEncryption:
    """Encrypts one image; `run` may be called once.

    Args:
        source: where it is read.
        destination: where it goes.
        wrappers: for whom, at least one.
        layers: which layers of every manifest, negative ones counted from the last; None is all.
        unwrap: opens layers that are encrypted already, so that recipients can be added; None
            refuses such layers.
        note: told what was done, a line each.
    """

    def __init__(
        self,
        source: ImageSource,
        destination: ImageDestination,
        wrappers: Sequence[KeyWrapper],
        *,
        layers: Sequence[int] | None = None,
        unwrap: UnwrapOptions | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._wrappers = tuple(wrappers)
        self._layers = layers
        self._unwrap = unwrap
        self._note = note
        self._pool = ThreadPoolExecutor(LAYERS_AT_A_TIME, thread_name_prefix="encrypt")
        self._slots = asyncio.Semaphore(LAYERS_AT_A_TIME)
        self._stop = threading.Event()

    async def run(self) -> Digest:
        """Copy and encrypt.

        Returns:
            The digest of the new manifest or index.

        Raises:
            GuestError: what failed; the destination's name was not touched, and nothing goes on
                writing to it: threads are waited for, each until its next chunk or, where a
                registry is silent, until `oras` gives it up (60 s).
        """
        try:
            await self._call(self._destination.prepare)
            return await self._copy(await self._call(self._source.root), 0)
        finally:
            self._stop.set()
            await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def _copy(self, document: Document, depth: int) -> Digest:
        digest, _, _ = await self._rewrite(document, depth)
        return digest

    async def _rewrite(self, document: Document, depth: int) -> tuple[Digest, int, str]:
        """Store the encrypted form of a document: its digest, size and media type."""
        try:
            parsed = parse_document(document.body, document.media_type)
            members = parse_object(document.body, "manifest")
        except DecodeError as error:
            raise InvalidInputError(f"{document.digest} is no image") from error
        match parsed:
            case Manifest():
                members = await self._rewrite_manifest(members, parsed)
            case Index():
                members = await self._rewrite_index(members, parsed, depth)
        media_type: str = members["mediaType"]
        body = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()
        digest = await self._call(
            lambda: self._destination.put_document(body, media_type, is_root=depth == 0)
        )
        return digest, len(body), media_type

    async def _rewrite_index(
        self, members: dict[str, Any], index: Index, depth: int
    ) -> dict[str, Any]:
        if depth >= MAX_INDEX_DEPTH or len(index.entries) > MAX_INDEX_ENTRIES:
            raise InvalidInputError("index is nested too deep or has too many entries")
        entries = []
        for raw, entry in zip(members["manifests"], index.entries, strict=True):
            if REFERENCE_TYPE in entry.descriptor.annotations:
                self._note(f"left out {entry.descriptor.digest}: it describes the plain image")
                continue
            entries.append(await self._rewrite_entry(raw, entry, depth))
        return members | {"mediaType": OCI_INDEX, "manifests": entries}

    async def _rewrite_entry(
        self, raw: dict[str, Any], entry: IndexEntry, depth: int
    ) -> dict[str, Any]:
        descriptor = entry.descriptor
        child = await self._call(lambda: self._source.document(descriptor.digest))
        digest, size, media_type = await self._rewrite(child, depth + 1)
        changed = {"mediaType": media_type, "digest": str(digest), "size": size}
        return {name: value for name, value in raw.items() if name != "data"} | changed

    async def _rewrite_manifest(
        self, members: dict[str, Any], manifest: Manifest
    ) -> dict[str, Any]:
        chosen = self._chosen(len(manifest.layers))
        for number in chosen:
            self._check_layer(number, manifest.layers[number])
        await self._copy_blob(manifest.config)
        work = [
            self._layer(number, raw, layer, number in chosen)
            for number, (raw, layer) in enumerate(
                zip(members["layers"], manifest.layers, strict=True)
            )
        ]
        layers = await self._together(work)
        config = dict(members["config"])
        if config["mediaType"] == DOCKER_CONFIG:
            config["mediaType"] = OCI_CONFIG
        return members | {"mediaType": OCI_MANIFEST, "config": config, "layers": layers}

    async def _together(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """All results in order; the first failure ends the others."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(each, name=f"layer {number}")
                    for number, each in enumerate(work)
                ]
        except BaseExceptionGroup as failures:
            self._stop.set()
            failure = first_failure(failures)
            raise failure from failure.__cause__
        return [task.result() for task in tasks]

    def _chosen(self, count: int) -> frozenset[int]:
        if self._layers is None:
            return frozenset(range(count))
        for number in self._layers:
            if not -count <= number < count:
                raise InvalidInputError(f"there is no layer {number}: the image has {count}")
        return frozenset(number % count for number in self._layers)

    def _check_layer(self, number: int, layer: Descriptor) -> None:
        """Fail before anything is copied."""
        if is_encrypted(layer.annotations):
            if self._unwrap is None:
                raise InvalidInputError(
                    f"layer {number} is encrypted already; to add recipients a key is needed "
                    "that decrypts it"
                )
            return
        try:
            encrypted_media_type(layer.media_type)
        except DecodeError as error:
            raise UnsupportedError(f"layer {number} cannot be encrypted") from error

    async def _layer(
        self, number: int, raw: dict[str, Any], layer: Descriptor, chosen: bool
    ) -> dict[str, Any]:
        if not chosen or is_encrypted(layer.annotations):
            await self._copy_blob(layer)
            plain = raw | {"mediaType": OF_DOCKER.get(layer.media_type, layer.media_type)}
            if not chosen:
                self._note(f"layer {number}: {layer.size} bytes, copied as they are")
                return plain
            return plain | {"annotations": await self._add_recipients(number, layer)}
        return await self._encrypt(number, raw, layer)

    async def _add_recipients(self, number: int, layer: Descriptor) -> dict[str, str]:
        assert self._unwrap is not None
        deadline = Deadline.after(WRAP_SECONDS)
        with await self._unwrap(layer.annotations, deadline) as options:
            annotations = await wrap_for(self._wrappers, options, layer.annotations, deadline)
        self._note(f"layer {number}: encrypted already, recipients added")
        return annotations

    async def _encrypt(self, number: int, raw: dict[str, Any], layer: Descriptor) -> dict[str, Any]:
        encryption = LayerEncryption(str(layer.digest))
        try:
            async with self._slots:
                digest, size = await self._call(
                    lambda: self._destination.write(
                        encryption.stream(self._stoppable(self._read(layer)))
                    )
                )
            with encryption.private() as options:
                deadline = Deadline.after(WRAP_SECONDS)
                annotations = await wrap_for(self._wrappers, options, layer.annotations, deadline)
            annotations |= encryption.annotations()
        finally:
            encryption.wipe()
        self._note(f"layer {number}: {size} bytes encrypted")
        kept = {name: value for name, value in raw.items() if name not in ("urls", "data")}
        return kept | {
            "mediaType": encrypted_media_type(layer.media_type),
            "digest": str(digest),
            "size": size,
            "annotations": annotations,
        }

    async def _copy_blob(self, blob: Descriptor) -> None:
        def copy() -> None:
            if self._destination.has(blob.digest, blob.size):
                return
            stored = self._destination.write(self._stoppable(self._read(blob)))
            if stored[0] != blob.digest:
                raise IntegrityError(f"blob {blob.digest} was stored as {stored[0]}")

        async with self._slots:
            await self._call(copy)

    def _read(self, blob: Descriptor) -> Iterator[bytes]:
        return self._source.read(blob.digest, blob.size)

    def _stoppable(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks, until the whole copy is given up."""
        for chunk in chunks:
            if self._stop.is_set():
                raise InvalidInputError("the copy was given up")
            yield chunk

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)
