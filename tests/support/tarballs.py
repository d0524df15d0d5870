"""Tar archives for tests: whole ones through the standard library, broken ones by hand."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from guest.crypto.digest import Digest, HashAlgorithm
from guest.deadline import Deadline
from image_pull.layers.finish import Noted
from image_pull.layers.header import Entry
from image_pull.layers.pipeline import LayerDescriptor, LayerPipeline
from image_pull.layers.record import LayerRecord
from image_pull.layers.tar import TarReader
from image_pull.layers.unpack import Unpacker
from image_pull.ocicrypt.cipher import LayerDecryptor

END: Final = bytes(1024)
TAR: Final = "application/vnd.oci.image.layer.v1.tar"
GZIP: Final = TAR + "+gzip"
ZSTD: Final = TAR + "+zstd"


def header(
    name: bytes,
    *,
    flag: bytes = b"0",
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    major: int = 0,
    minor: int = 0,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    extra: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """One header block with a good checksum."""
    fields = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%s%s" % (
        name[:100].ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        flag,
        link[:100].ljust(100, b"\0"),
        magic,
    )
    fields += bytes(64) + b"%07o\0%07o\0%s" % (major, minor, prefix[:155].ljust(155, b"\0"))
    block = bytearray(fields.ljust(512, b"\0"))
    for offset, data in extra:
        block[offset : offset + len(data)] = data
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % 512)


def file(name: bytes, data: bytes = b"", **fields: Any) -> bytes:
    """A regular file, or any entry with data."""
    return header(name, size=len(data), **fields) + padded(data)


def folder(name: bytes, **fields: Any) -> bytes:
    """A directory."""
    return header(name, flag=b"5", **({"mode": 0o755} | fields))


def symlink(name: bytes, link: bytes, **fields: Any) -> bytes:
    """A symbolic link."""
    return header(name, flag=b"2", link=link, mode=0o777, **fields)


def hard_link(name: bytes, link: bytes, **fields: Any) -> bytes:
    """A hard link."""
    return header(name, flag=b"1", link=link, **fields)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    """An extended header."""
    body = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        total = length + len(str(length))
        if len(str(total)) > len(str(length)):
            total += 1
        body += b"%d %s=%s\n" % (total, key, value)
    return file(b"PaxHeaders/x", body, flag=flag)


def sha256(data: bytes) -> Digest:
    """The digest of bytes."""
    return HashAlgorithm.SHA256.of(data)


def unpack_here(tar: bytes, target: Path, *, privileged: bool, step: int = 1 << 16) -> Noted:
    """Unpack in this process, without a jail."""
    target.mkdir(mode=0o700)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        reader = TarReader()
        unpacker = Unpacker(root, privileged)
        for start in range(0, len(tar), step):
            for event in reader.feed(tar[start : start + step]):
                if isinstance(event, Entry):
                    unpacker.entry(event)
                else:
                    unpacker.data(event)
        reader.finish()
        return unpacker.finish()
    finally:
        os.close(root)


@asynccontextmanager
async def pipeline(max_bytes: int | None = None, *, cores: int = 4) -> AsyncIterator[LayerPipeline]:
    """A pipeline that ends with the block."""
    pool = ThreadPoolExecutor(2)
    made = LayerPipeline(pool=pool, cores=cores, max_bytes=max_bytes)
    try:
        yield made
    finally:
        await made.close()
        pool.shutdown()


async def chunks(data: bytes, step: int = 50_000) -> AsyncIterator[bytes]:
    """The data as it comes from a network."""
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def unpack(
    made: LayerPipeline,
    blob: bytes,
    target: Path,
    *,
    tar: bytes,
    media_type: str = TAR,
    decryptor: LayerDecryptor | None = None,
    digest: Digest | None = None,
    size: int | None = None,
    diff_id: Digest | None = None,
    source: AsyncIterator[bytes] | None = None,
    idle: float = 30.0,
    seconds: float = 50.0,
) -> LayerRecord:
    """Run a blob through the pipeline, described truthfully unless said otherwise."""
    return await made.unpack(
        chunks(blob) if source is None else source,
        LayerDescriptor(
            media_type=media_type,
            digest=digest or sha256(blob),
            size=len(blob) if size is None else size,
        ),
        target,
        decryptor=decryptor,
        diff_id=diff_id or sha256(tar),
        deadline=Deadline.after(seconds),
        idle=idle,
    )


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """Whatever the block does, the canary tree stays as it is, times and modes included."""
    before = snapshot(directory)
    yield
    assert snapshot(directory) == before


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """Mode, owner, time and content of everything in a tree."""
    found = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(directory))
        found[name] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            content,
        )
    return found
