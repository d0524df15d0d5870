"""One layer, from the bytes of its blob to a verified tree on disk.

Here: blob size and digest, decryption and HMAC. In the jailed worker: decompression, the tar's
digest, the files. Nothing of the tree counts before all of them agree.

Source: docs/spec/image-pull.md §10 to 12; docs/ARCHITECTURE.md, decisions 6 to 7.
"""

import asyncio
import logging
import os
import sys
from asyncio import Future
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guest.crypto.digest import Digest, HashAlgorithm
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    PeerError,
    PlatformError,
    UnavailableError,
    UnsupportedError,
)
from image_pull.layers import jobs
from image_pull.layers.channel import WorkerChannel
from image_pull.layers.jobs import Exit, FailureKind, FrameKind, Hello, Job
from image_pull.layers.launch import UnpackServers, log_jail, refuse_weak_root
from image_pull.layers.media_types import compression_of, is_encrypted
from image_pull.layers.record import Jail, LayerRecord
from image_pull.layers.remove import DIRECTORY, remove_tree
from image_pull.layers.verify import BlobVerifier
from image_pull.observer import PullObserver, Unobserved
from image_pull.ocicrypt.annotations import DECRYPT_FAILED
from image_pull.ocicrypt.cipher import LayerDecryptor

log = logging.getLogger(__name__)

BLOCK: Final = 64 * 1024
"""Bytes that go through the stages at a time, at least, except the last."""

INLINE: Final = 64 * 1024
"""Bytes up to which hashing is not worth a thread."""

FEW_CORES: Final = 2
"""Cores of which the workers leave none to a thread: there no block is worth one."""

MAX_DRAIN: Final = 8 * 1024 * 1024
"""Bytes of a broken layer still read, to tell a wrong blob from a bad layer."""

MAX_EXPANSION: Final = 4096
"""Times its own length that a blob may unpack to, once that is more than `EXPANSION_FREE`."""

EXPANSION_FREE: Final = 256 * 1024 * 1024
"""Bytes that every blob may unpack to; the store's room and the configuration still count."""

DATA_STREAM: Final = "Failed to decode layer data stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDescriptor:
    """A layer as the manifest names it.

    Attributes:
        media_type: as in the manifest, `+encrypted` included.
        digest: of the blob.
        size: of the blob, in bytes.
        annotations: of the descriptor.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


class NoSpaceError(LimitError):
    """The store has no room for the layer."""


@dataclass(slots=True, kw_only=True)
class _Stage:
    """What happens to a blob's bytes before the worker gets them."""

    verifier: BlobVerifier
    decryptor: LayerDecryptor | None
    too_long: type[GuestError]
    """What it means that the layer has more bytes than its job allows."""

    def take(self, block: bytes) -> bytes:
        self.verifier.update(block)
        return block if self.decryptor is None else self.decryptor.update(block)

    def finish(self) -> None:
        self.verifier.finish()
        if self.decryptor is not None:
            try:
                self.decryptor.finish()
            except IntegrityError as error:
                raise IntegrityError(DECRYPT_FAILED) from error


class LayerPipeline:
    """Verifies, decrypts, decompresses and unpacks layers, any number at a time.

    Args:
        pool: threads for what computes or waits for the disk; as many as cores.
        cores: that this process may use.
        max_bytes: most bytes of one uncompressed layer; None: what the file system has free.
        observer: told of the jail.
    """

    def __init__(
        self,
        *,
        pool: ThreadPoolExecutor,
        cores: int,
        max_bytes: int | None = None,
        observer: PullObserver = Unobserved(),  # noqa: B008  # has no state
    ) -> None:
        self._pool = pool
        self._inline = INLINE if cores > FEW_CORES else sys.maxsize
        self._max_bytes = max_bytes
        self._observer = observer
        self._servers = UnpackServers(pool, self._server_started)

    def _server_started(self, hello: Hello) -> None:
        log_jail(hello)
        self._observer.jail_chosen(hello.jail)

    def start(self) -> None:
        """Have the unpack server on its way; a failure shows when a layer needs it."""
        try:
            self._servers.start()
        except PlatformError as error:
            log.debug("unpack server is not started ahead", extra={"error": str(error)})

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
        """Make `target` (absent or an empty directory; its parent exists) the layer's tree.

        Raises with `target` removed. A message is text L of docs/spec/image-pull.md §18.
        After all layers below are there: `privileged.apply_privileged`, then the rename.

        Args:
            chunks: the blob's bytes, in any pieces.
            descriptor: what the manifest says of the blob.
            target: where the tree goes.
            decryptor: of this layer, exactly when its media type says that it is encrypted.
            diff_id: what the image's config says of the tar.
            deadline: for the whole layer.
            idle: seconds without a byte from `chunks`, or without a move of the worker.

        Raises:
            IntegrityError: blob size, blob digest, HMAC or diff_id do not match.
            UnsupportedError: unknown media type or digest algorithm.
            InvalidInputError: the tar or its compression is broken or hostile.
            LimitError: too many entries or bytes; `NoSpaceError` if for want of room.
            PlatformError: no jail for root, or the disk refused.
            UnavailableError: the unpack server died; a new pull starts another.
            DeadlineError: `deadline` passed, or `idle` seconds went by without a byte.
        """
        compression = compression_of(descriptor.media_type)
        _check(descriptor, decryptor, diff_id)
        server, hello = await self._servers.current(deadline)
        refuse_weak_root(hello)
        loop = asyncio.get_running_loop()
        root, free = await loop.run_in_executor(self._pool, self._prepare, target)
        most = self._most(descriptor.size)

        def job(number: int) -> Job:
            return Job(
                number=number,
                compression=compression,
                algorithm=diff_id.algorithm,
                max_bytes=min(free, most),
                privileged=hello.jail is Jail.FULL,
            )

        verifier = BlobVerifier(descriptor.digest, descriptor.size)
        too_long = NoSpaceError if free < most else LimitError
        stage = _Stage(verifier=verifier, decryptor=decryptor, too_long=too_long)
        channel: WorkerChannel | None = None
        try:
            channel = server.begin(job, root)
            record = await self._run(chunks, stage, channel, deadline, idle)
            await _judge(record, diff_id, channel)
        except BaseException:
            await self._clean_up(channel, target)
            raise
        finally:
            os.close(root)
        return record

    def _most(self, size: int) -> int:
        """The most bytes that a blob of this size may unpack to, whatever room there is."""
        most = max(EXPANSION_FREE, size * MAX_EXPANSION)
        return most if self._max_bytes is None else min(most, self._max_bytes)

    def _prepare(self, target: Path) -> tuple[int, int]:
        """Make the directory; gives its descriptor and the bytes that its file system has free."""
        try:
            target.mkdir(mode=0o700, exist_ok=True)
            root = os.open(target, DIRECTORY)
        except OSError as error:
            raise PlatformError(f"{DATA_STREAM}: cannot make the layer's directory") from error
        if os.listdir(root):
            os.close(root)
            raise PlatformError(f"{DATA_STREAM}: the layer's directory is not empty")
        free = os.fstatvfs(root)
        return root, free.f_bavail * free.f_frsize

    async def _clean_up(self, channel: WorkerChannel | None, target: Path) -> None:
        """Leave nothing: first the worker goes, then its tree."""
        try:
            if channel is not None:
                await channel.end()
        finally:
            # in its thread it runs to its end, also when this task is cancelled once more
            loop = asyncio.get_running_loop()
            await asyncio.shield(loop.run_in_executor(self._pool, _remove, target))

    async def _run(
        self,
        chunks: AsyncIterator[bytes],
        stage: _Stage,
        channel: WorkerChannel,
        deadline: Deadline,
        idle: float,
    ) -> LayerRecord:
        """Feed the worker and read its report."""
        wanted = False
        async with channel.while_it_lives():
            wanted = await self._feed(chunks, stage, channel, deadline, idle)
        try:
            kind, body = await channel.outcome(deadline, idle)
        except UnavailableError as error:
            raise _death(await channel.end()) from error
        try:
            if kind is FrameKind.FAILURE:
                failure = jobs.decode_failure(body)
            else:
                return LayerRecord.decode(body)
        except DecodeError as error:
            raise PeerError(f"{DATA_STREAM}: unpack worker broke its protocol") from error
        if not wanted and stage.verifier.left <= MAX_DRAIN:
            await self._drain(chunks, stage, deadline, idle)
        cause = _FAILURES.get(failure.kind, stage.too_long)
        raise cause(f"{DATA_STREAM}: Failed to unpack layer: {failure.text}")

    async def _feed(
        self,
        chunks: AsyncIterator[bytes],
        stage: _Stage,
        channel: WorkerChannel,
        deadline: Deadline,
        idle: float,
    ) -> bool:
        """Send the whole blob; one block is computed while the one before is sent.

        Returns:
            False when the worker had its outcome before the end.
        """
        ready = b""
        while block := await _next_block(chunks, deadline, idle):
            computing = self._compute(stage, block)
            del block  # the next one is received while nothing but its successor is held
            try:
                wanted = await channel.send(ready, deadline, idle)
            except BaseException:
                computing.cancel()
                raise
            ready = await computing
            if not wanted:
                return False
        if not await channel.send(ready, deadline, idle):
            return False
        stage.finish()
        return True

    def _compute(self, stage: _Stage, block: bytes) -> Future[bytes]:
        """In a thread, unless that costs more than it gains."""
        loop = asyncio.get_running_loop()
        if len(block) > self._inline:
            return loop.run_in_executor(self._pool, stage.take, block)
        done: Future[bytes] = loop.create_future()
        try:
            done.set_result(stage.take(block))
        except GuestError as error:
            done.set_exception(error)
        return done

    async def _drain(
        self, chunks: AsyncIterator[bytes], stage: _Stage, deadline: Deadline, idle: float
    ) -> None:
        """Read the rest of a layer that did not unpack: was it the blob?

        Raises:
            IntegrityError: it was.
        """
        while block := await _next_block(chunks, deadline, idle):
            await self._compute(stage, block)
        stage.finish()

    async def close(self) -> None:
        """End the unpack server, and with it what it still unpacks."""
        await self._servers.close()


_FAILURES: Final[dict[FailureKind, type[GuestError]]] = {
    FailureKind.INPUT: InvalidInputError,
    FailureKind.LIMIT: LimitError,
    FailureKind.SPACE: NoSpaceError,
    FailureKind.SYSTEM: PlatformError,
}


async def _next_block(chunks: AsyncIterator[bytes], deadline: Deadline, idle: float) -> bytes:
    """At least `BLOCK` bytes, fewer only at the end, none after it; others have their turn before.

    Neither a source in memory nor a worker that keeps up would let them.
    """
    await asyncio.sleep(0)
    pieces: list[bytes] = []
    size = 0
    while size < BLOCK:
        async with deadline.within(idle).limit("the next bytes of a layer"):
            chunk = await anext(chunks, None)
        if chunk is None:
            break
        pieces.append(chunk)
        size += len(chunk)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check(descriptor: LayerDescriptor, decryptor: LayerDecryptor | None, diff_id: Digest) -> None:
    assert is_encrypted(descriptor.media_type) == (decryptor is not None)
    if diff_id.algorithm not in (HashAlgorithm.SHA256, HashAlgorithm.SHA512):
        raise UnsupportedError(f"{DATA_STREAM}: Unsupported uncompressed digest format: {diff_id}")


async def _judge(record: LayerRecord, diff_id: Digest, channel: WorkerChannel) -> None:
    """The tar was the right one, and nobody writes to its tree any more."""
    if record.diff_id != str(diff_id):
        raise IntegrityError(
            f"unequal uncompressed digest {record.diff_id} config diff_id {diff_id}"
        )
    end = await channel.end()
    if end is None or end.why:  # of a server that died the workers may live a moment longer
        raise UnavailableError(f"{DATA_STREAM}: {end.why if end else 'worker does not end'}")


def _death(end: Exit | None) -> GuestError:
    """Why a worker left no report."""
    if end is None or end.why:
        why = end.why if end is not None else "unpack server does not answer"
        return UnavailableError(f"{DATA_STREAM}: {why}")
    how = f"signal {-end.status}" if end.status < 0 else f"exit status {end.status}"
    return PlatformError(f"{DATA_STREAM}: unpack worker died of {how}")


def _remove(target: Path) -> None:
    try:
        remove_tree(target)
    except OSError as error:
        log.warning("layer not removed", extra={"path": str(target), "error": str(error)})
