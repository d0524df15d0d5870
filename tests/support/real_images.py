"""Images of the installed files of this machine, written straight to an OCI layout on disk.

Sources are the files of Debian's packages and of Python's; which ones are taken follows from their
sizes and paths alone, so one machine makes the same image every time. Nothing is held in memory
whole, so that a layer of a gigabyte can be built anywhere.

Source: issue "The image puller", "Speed and size"; OCI image-spec "Image Layout".
"""

import functools
import hashlib
import io
import json
import os
import stat
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

from guest_simulator.images.entries import Entry, Kind, tar_info
from guest_simulator.images.image import CONFIG, LAYER, MANIFEST, Compression, document
from guest_simulator.images.layout import REF_NAME, VERSION

PACKAGES: Final = Path("/var/lib/dpkg/info")
CHUNK: Final = 1 << 20
GZIP_LEVEL: Final = 6
RUN: Final = 40
"""Files that are taken one after the other, so that directories hold as many as real ones do."""

SKIPPED: Final = (".pyc",)
"""Ends of names that one run of Python may add to another's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A regular file of this machine.

    Attributes:
        path: absolute.
        size: in bytes.
    """

    path: str
    size: int


Layer = tuple[Source | Entry, ...]
"""What one layer holds, in the order of its archive; parents are added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An image to build.

    Attributes:
        name: short.
        layers: bottom first.
        compression: of every layer.
    """

    name: str
    layers: tuple[Layer, ...]
    compression: Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLayer:
    """A layer on disk.

    Attributes:
        tar: file with the archive.
        blob: file with its compressed form, in the layout.
        digest: of the blob.
        diff_id: of the archive.
    """

    tar: Path
    blob: Path
    digest: str
    diff_id: str
    compression: Compression

    @property
    def packed_bytes(self) -> int:
        """Length of the blob."""
        return self.blob.stat().st_size

    @property
    def tar_bytes(self) -> int:
        """Length of the archive."""
        return self.tar.stat().st_size


def many_files(scale: float = 1.0) -> Recipe:
    """Image A: 10 layers, 20,000 files, about 330 MB unpacked, gzip."""
    files = _of_total(round(20_000 * scale), round(330e6 * scale))
    layers = [*_parts(files, 10)]
    layers[-1] += (*hidden(layers), *odd_entries())
    return Recipe(name="A", layers=tuple(layers), compression=Compression.GZIP)


def one_large_layer(scale: float = 1.0) -> Recipe:
    """Image C: one layer of large files, 1 GiB, zstd."""
    total, taken = round((1 << 30) * scale), list[Source | Entry]()
    largest = sorted(sources(), key=lambda source: (-source.size, source.path))
    fitting = [source for source in largest if source.size <= total // 32]
    copy = 0
    while total > 0:
        for source in fitting:
            if total <= 0:
                break
            taken.append(source if not copy else _renamed(source, copy))
            total -= source.size
        copy += 1
    return Recipe(name="C", layers=(tuple(taken),), compression=Compression.ZSTD)


def many_layers(scale: float = 1.0) -> Recipe:
    """Image D: 60 layers of 100 small files, gzip."""
    files = _of_total(round(6000 * scale), round(6000 * 2000 * scale))
    layers = [*_parts(files, 60)]
    layers[-1] += (*hidden(layers), *odd_entries())
    return Recipe(name="D", layers=tuple(layers), compression=Compression.GZIP)


@functools.cache
def sources() -> tuple[Source, ...]:
    """Every regular file of an installed package, ordered by size and path."""
    found = {}
    for path in _package_paths():
        if path.endswith(SKIPPED):
            continue
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            found[path] = Source(path=path, size=status.st_size)
    return tuple(sorted(found.values(), key=lambda source: (source.size, source.path)))


def _package_paths() -> Iterator[str]:
    for listing in sorted(PACKAGES.glob("*.list")):
        # a name that is no UTF-8 could not be written as an entry's text
        yield from listing.read_text("utf-8", "ignore").splitlines()
    for name in ("stdlib", "purelib"):
        for folder, folders, names in os.walk(sysconfig.get_path(name) or sys.prefix):
            folders[:] = sorted(each for each in folders if each != "__pycache__")
            yield from (f"{folder}/{each}" for each in names)


def _of_total(count: int, total: int) -> list[Source | Entry]:
    """`count` files of about `total` bytes, in runs of neighbours as they lie in directories."""
    aim = float(total)
    for _ in range(4):
        chosen = _runs(count, aim)
        aim *= total / sum(source.size for source in chosen)
    files: list[Source | Entry] = [*chosen]
    seen: dict[str, int] = {}
    for number, source in enumerate(chosen):
        copy = seen[source.path] = seen.get(source.path, -1) + 1
        files[number] = source if not copy else _renamed(source, copy)
    return files


def _runs(count: int, aim: float) -> list[Source]:
    """Files of about `aim` bytes, those that are too large for that left out."""
    ordered = [source for source in sources() if source.size]
    sums = [0, *accumulate(source.size for source in ordered)]
    # a choice among the smallest n files has about count/n of their bytes
    most = next((n for n in range(1, len(sums)) if sums[n] * count >= aim * n), len(ordered))
    allowed = sorted(ordered[:most], key=lambda source: source.path)
    runs = -(-count // RUN)
    starts = [number * len(allowed) // runs for number in range(runs)]
    return [source for start in starts for source in allowed[start : start + RUN]][:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renamed(Source):
    copy: int


def _renamed(source: Source, copy: int) -> Source:
    """The same file once more, where a machine has too few."""
    return _Renamed(path=source.path, size=source.size, copy=copy)


def _parts(files: list[Source | Entry], count: int) -> Iterator[Layer]:
    for number in range(count):
        yield tuple(files[number * len(files) // count : (number + 1) * len(files) // count])


def hidden(layers: Sequence[Layer]) -> Layer:
    """Whiteouts of the first file of all, and of all that is beside the first of another layer."""
    first, other = layers[0][0], layers[len(layers) // 2][0]
    assert isinstance(first, Source)
    assert isinstance(other, Source)
    folder = os.path.dirname(other.path).lstrip("/")
    return (
        Entry(kind=Kind.WHITEOUT, path=first.path.lstrip("/")),
        Entry(kind=Kind.OPAQUE, path=folder),
    )


def odd_entries() -> Layer:
    """One of everything that package files have not: links, nodes, attributes, whiteouts."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    setuid = Entry(path="odd/setuid", data=b"#!/bin/sh\n", mode=0o6755, uid=33, gid=34, mtime=1.25)
    return (
        Entry(kind=Kind.DIRECTORY, path="odd", mode=0o1777, uid=7, gid=8, mtime=1_600_000_000.5),
        setuid,
        replace(setuid, kind=Kind.HARD_LINK, path="odd/hard", target="odd/setuid", data=b""),
        Entry(kind=Kind.SYMLINK, path="odd/absolute", target="/odd/setuid", mode=0o777, uid=5),
        Entry(kind=Kind.SYMLINK, path="odd/dangling", target="../../no/where", mode=0o777),
        Entry(path="odd/empty", mode=0),
        Entry(path="odd/capable", data=b"x", xattrs={"security.capability": capability}),
        Entry(path="odd/noted", data=b"x", xattrs={"user.note": b"a\0=\nb"}),
        Entry(kind=Kind.FIFO, path="odd/fifo", mode=0o620, gid=5),
        Entry(kind=Kind.CHARACTER, path="odd/null", mode=0o666, major=1, minor=3),
        Entry(kind=Kind.BLOCK, path="odd/loop", mode=0o660, gid=6, major=7, minor=7),
        Entry(path="odd/" + "long" * 50, data=b"long", mode=0o644),
        Entry(path="odd/na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve", data=b"text"),
    )


def write_layer(layer: Layer, directory: Path, number: int, compression: Compression) -> BuiltLayer:
    """Write one layer's archive beside the layout and its blob into it."""
    tar, packed = directory / f"{number}.tar", directory / f"{number}.packed"
    with (
        open(tar, "wb") as file,
        tarfile.open(
            fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8"
        ) as archive,
    ):
        made: set[str] = set()
        for item in layer:
            _add(archive, item, made)
    diff_id, digest = hashlib.sha256(), hashlib.sha256()
    packer = packer_of(compression)
    with open(tar, "rb") as plain, open(packed, "wb") as blob:
        while chunk := plain.read(CHUNK):
            diff_id.update(chunk)
            piece = packer.compress(chunk)
            digest.update(piece)
            blob.write(piece)
        rest = packer.flush()
        digest.update(rest)
        blob.write(rest)
    place = directory / "layout" / "blobs" / "sha256" / digest.hexdigest()
    packed.rename(place)
    return BuiltLayer(
        tar=tar,
        blob=place,
        digest=f"sha256:{digest.hexdigest()}",
        diff_id=f"sha256:{diff_id.hexdigest()}",
        compression=compression,
    )


class Packer(Protocol):
    """Compresses in pieces."""

    def compress(self, data: bytes, /) -> bytes:
        """What `data` adds to the output."""
        ...

    def flush(self) -> bytes:
        """The rest."""
        ...


def packer_of(compression: Compression) -> Packer:
    """A compressor, at the level that tools use who are not told one."""
    if compression is Compression.ZSTD:
        import zstandard

        return zstandard.ZstdCompressor(level=3).compressobj()
    assert compression is Compression.GZIP
    return zlib.compressobj(GZIP_LEVEL, wbits=31)


def _add(archive: tarfile.TarFile, item: Source | Entry, made: set[str]) -> None:
    name = item.archive_name if isinstance(item, Entry) else item.path.lstrip("/")
    if isinstance(item, _Renamed):
        name = f"again/{item.copy}/{name}"
    _add_parents(archive, name, made)
    if isinstance(item, Entry):
        made.add(name)
        archive.addfile(tar_info(item), io.BytesIO(item.data))
        return
    info = tarfile.TarInfo(name)
    with open(item.path, "rb") as file:
        status = os.fstat(file.fileno())
        info.size, info.mode = status.st_size, stat.S_IMODE(status.st_mode)
        info.uid, info.gid, info.mtime = status.st_uid, status.st_gid, int(status.st_mtime)
        archive.addfile(info, file)


def _add_parents(archive: tarfile.TarFile, name: str, made: set[str]) -> None:
    missing = []
    parent = name.rpartition("/")[0]
    while parent and parent not in made:
        missing.append(parent)
        parent = parent.rpartition("/")[0]
    for path in reversed(missing):
        made.add(path)
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
        archive.addfile(info)


def write_image(recipe: Recipe, directory: Path, tag: str = "v1") -> list[BuiltLayer]:
    """Write `directory/layout` with this image, and the archives of its layers beside it.

    Args:
        recipe: what to build.
        directory: made when absent; best in memory.
        tag: name in the layout.

    Returns:
        The layers, bottom first.
    """
    blobs = directory / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = [
            pool.submit(write_layer, layer, directory, number, recipe.compression)
            for number, layer in enumerate(recipe.layers)
        ]
        layers = [job.result() for job in jobs]
    write_index(layers, directory / "layout", tag)
    return layers


def repacked(layer: BuiltLayer, directory: Path, compress: Callable[[bytes], bytes]) -> BuiltLayer:
    """The same archive as one gzip file of many members, made in several threads.

    Args:
        layer: whose archive is taken.
        directory: of the layout.
        compress: makes a gzip member of some bytes, without the interpreter's lock.
    """
    digest, packed = hashlib.sha256(), directory / "repacked"
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, open(layer.tar, "rb") as plain:
        with open(packed, "wb") as blob:
            chunks = iter(lambda: [plain.read(8 * CHUNK) for _ in range(4)], [b""] * 4)
            for batch in chunks:
                for piece in pool.map(compress, filter(None, batch)):
                    digest.update(piece)
                    blob.write(piece)
    place = directory / "layout" / "blobs" / "sha256" / digest.hexdigest()
    packed.rename(place)
    named = f"sha256:{digest.hexdigest()}"
    return replace(layer, blob=place, digest=named, compression=Compression.GZIP)


def write_index(layers: Sequence[BuiltLayer], layout: Path, tag: str) -> None:
    """Write configuration, manifest and index of these layers into a layout."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    listed = [
        {
            "mediaType": LAYER + layer.compression,
            "digest": layer.digest,
            "size": layer.packed_bytes,
        }
        for layer in layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _written(layout, CONFIG, document(config)),
        "layers": listed,
    }
    named = {**_written(layout, MANIFEST, document(manifest)), "annotations": {REF_NAME: tag}}
    (layout / "oci-layout").write_bytes(VERSION)
    path = layout / "index.json"
    others = json.loads(path.read_bytes())["manifests"] if path.exists() else []
    path.write_bytes(document({"schemaVersion": 2, "manifests": [*others, named]}))


def _written(layout: Path, media_type: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
