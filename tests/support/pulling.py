"""A puller for tests of the fetch side: everything real but the unpacking of layers."""

import contextlib
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import IntegrityError, InvalidInputError, NotFoundError
from guest.http import HttpClient
from guest.proxies import Proxies
from guest.secret import Secret
from image_pull.config import ImageConfig
from image_pull.layer_fetch import Keys
from image_pull.layers.media_types import Compression, compression_of
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.layers.record import Jail, LayerRecord
from image_pull.layers.remove import remove_tree
from image_pull.ocicrypt.cipher import LayerDecryptor
from image_pull.puller import ImagePuller
from image_pull.sources import Sources
from image_pull.users import user_of
from image_pull.workshop import LazyWorkshop, RegistryPool


@dataclass
class Resources:
    """A KBS of a dictionary."""

    held: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        """The bytes behind the URI."""
        self.asked.append(uri)
        if uri not in self.held:
            raise NotFoundError(f"no resource {uri}")
        return Secret(self.held[uri])


class PlainPipeline:
    """Checks what the real one checks of a plain layer; knows regular files and directories."""

    def __init__(self) -> None:
        self.unpacked: list[str] = []

    def start(self) -> None:
        """Nothing to start."""

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
        """Unpack in memory."""
        blob = b"".join([chunk async for chunk in chunks])
        if (
            len(blob) != descriptor.size
            or descriptor.digest.algorithm.of(blob) != descriptor.digest
        ):
            raise IntegrityError("Failed to decode layer data stream: Failed to unpack layer: blob")
        compression = compression_of(descriptor.media_type)
        assert compression is not Compression.ZSTD
        assert decryptor is None
        try:
            tar = zlib.decompress(blob, 31) if compression is Compression.GZIP else blob
        except zlib.error as error:
            raise InvalidInputError("Failed to decode layer data stream: not gzip") from error
        actual = diff_id.algorithm.of(tar)
        if actual != diff_id:
            raise IntegrityError(f"unequal uncompressed digest {actual} config diff_id {diff_id}")
        self.unpacked.append(str(descriptor.digest))
        target.mkdir()
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                _place(target / member.name, archive, member)
        return LayerRecord(
            diff_id=str(diff_id),
            entries=1,
            tar_bytes=len(tar),
            jail=Jail.RESOLVER,
            privileged=False,
        )

    async def close(self) -> None:
        """Nothing to end."""


def _place(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif member.isreg():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        assert content is not None
        path.write_bytes(content.read())


def copy_together(layers: Sequence[tuple[Path, LayerRecord]], target: Path) -> None:
    """Copy layers over each other, without whiteouts."""
    target.mkdir()
    for tree, _ in layers:
        for directory, _, files in os.walk(tree):
            inside = target / Path(directory).relative_to(tree)
            inside.mkdir(parents=True, exist_ok=True)
            for name in files:
                (inside / name).write_bytes((Path(directory) / name).read_bytes())


@contextlib.asynccontextmanager
async def plain_puller(
    work_dir: Path,
    *,
    pipeline: PlainPipeline | None = None,
    resources: Resources | None = None,
    roots: tuple[str, ...] = (),
    **table: object,
) -> AsyncIterator[ImagePuller]:
    """A puller over a `PlainPipeline`; `table` has further fields of the `[image]` table."""
    config = ImageConfig(work_dir=str(work_dir), **table)  # type: ignore[arg-type]  # free fields
    pool = ThreadPoolExecutor(max_workers=4)
    registries = RegistryPool(
        lambda: HttpClient(user_agent="test", extra_roots=roots, proxies=Proxies())
    )
    puller = ImagePuller(
        config,
        workshops=LazyWorkshop(
            config,
            sources=Sources(resources or Resources()),
            registries=registries,
            keys=Keys(unwrapper=None),
            pool=pool,
            compute=pool,
            pipeline=pipeline or PlainPipeline(),
            finish=lambda record, tree, below: None,
            merge=copy_together,
        ),
        registries=registries,
        pool=pool,
        architecture="amd64",
        user_of=user_of,
    )
    try:
        yield puller
    finally:
        await puller.close()


def insecure(host: str) -> dict[str, object]:
    """A `registry_config` that reaches a host by plain HTTP."""
    return {"registry": [{"location": host, "insecure": True}]}


def sha256(data: bytes) -> str:
    """The digest as image documents write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def left_in_store(work_dir: Path) -> list[str]:
    """What of layers under way is left in a store."""
    return sorted(path.name for path in (work_dir / "staging").iterdir())


def forget(path: Path) -> None:
    """Remove a tree that a test made."""
    remove_tree(path)
