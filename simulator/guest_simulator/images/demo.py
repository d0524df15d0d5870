"""The demo's image: real files of this machine, and one of everything a layer can hold."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Layer

FILE_LIMIT: Final = 512 * 1024
"""Bytes of a source file that is taken; larger ones are passed over."""

LONG_NAME: Final = "a-name-longer-than-the-hundred-bytes-of-a-ustar-header-" + "x" * 120


def source_directories() -> tuple[Path, ...]:
    """Where there are thousands of real files: Python's own library, and what is installed."""
    return tuple(Path(sysconfig.get_path(name) or sys.prefix) for name in ("stdlib", "purelib"))


def _real_files(sources: tuple[Path, ...], limit: int) -> Iterator[Entry]:
    left = limit
    for number, source in enumerate(sources):
        prefix = f"usr/lib/real/{number}" if len(sources) > 1 else "usr/lib/real"
        for entry in files_below(source, prefix, left):
            left -= entry.kind is not Kind.DIRECTORY
            yield entry


def files_below(source: Path, prefix: str, limit: int) -> Iterator[Entry]:
    """Directories, files and links of a directory as entries, parents first, sorted.

    Args:
        source: what is read; caches, sockets and large files are passed over.
        prefix: path in the image.
        limit: files at most.
    """
    count = 0
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        if count >= limit:
            return
        relative = Path(folder).relative_to(source).as_posix()
        base = prefix if relative == "." else f"{prefix}/{relative}"
        yield Entry(kind=Kind.DIRECTORY, path=base, mode=0o755)
        for name in islice(sorted(names), limit - count):
            entry = _from_file(Path(folder) / name, f"{base}/{name}")
            if entry is not None:
                count += 1
                yield entry


def _from_file(path: Path, name: str) -> Entry | None:
    if path.is_symlink():
        return Entry(kind=Kind.SYMLINK, path=name, target=os.readlink(path), mode=0o777)
    if not path.is_file() or path.stat().st_size > FILE_LIMIT:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return Entry(path=name, data=data, mode=path.stat().st_mode & 0o777)


def _directories(*paths: str) -> tuple[Entry, ...]:
    return tuple(Entry(kind=Kind.DIRECTORY, path=path, mode=0o755) for path in paths)


def _base(privileged: bool) -> tuple[Entry, ...]:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    xattrs = {"security.capability": capability} if privileged else {}
    devices = (
        Entry(kind=Kind.CHARACTER, path="dev/null", mode=0o666, major=1, minor=3),
        Entry(kind=Kind.BLOCK, path="dev/loop7", mode=0o660, gid=6, major=7, minor=7),
    )
    return (
        *_directories("bin", "dev", "etc", "etc/old", "home", "tmp", "usr", "usr/bin", "var"),
        Entry(kind=Kind.DIRECTORY, path="var/cache", mode=0o2775, gid=50),
        Entry(kind=Kind.DIRECTORY, path="var/tmp", mode=0o1777),
        Entry(path="bin/sh", data=b"#!/bin/true\n" * 64, mode=0o755),
        Entry(path="etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n"),
        Entry(path="etc/shadow", data=b"root:*:19000::::::\n", mode=0o640, gid=42),
        Entry(path="etc/empty"),
        Entry(path="etc/old/one", data=b"1\n"),
        Entry(path="etc/old/two", data=b"2\n"),
        Entry(path="usr/bin/su", data=b"\x7fELF" + bytes(4096), mode=0o4755),
        Entry(path="usr/bin/wall", data=b"\x7fELF" + bytes(100), mode=0o2755, gid=5),
        Entry(path="usr/bin/ping", data=b"\x7fELF" + bytes(999), mode=0o755, xattrs=xattrs),
        Entry(kind=Kind.HARD_LINK, path="usr/bin/ping6", target="usr/bin/ping", mode=0o755),
        Entry(kind=Kind.SYMLINK, path="usr/bin/sh", target="../../bin/sh", mode=0o777),
        Entry(kind=Kind.SYMLINK, path="etc/absolute", target="/etc/passwd", mode=0o777),
        Entry(kind=Kind.SYMLINK, path="etc/dangling", target="nowhere", mode=0o777),
        Entry(kind=Kind.FIFO, path="var/fifo", mode=0o600),
        Entry(path="var/cache/blob", data=bytes(range(256)) * 1024, mtime=1_600_000_000.25),
        Entry(path="var/cache/attributes", data=b"a", xattrs={"user.note": b"caf\xc3\xa9 \x01"}),
        Entry(path=f"home/{LONG_NAME}", data=b"long\n", uid=1000, gid=1000),
        Entry(path="home/na\u00efve-\u6587\u4ef6", data=b"unicode\n", uid=1000, gid=1000),
        *devices,
    )


def _upper() -> tuple[Entry, ...]:
    return (
        *_directories("etc", "etc/old", "var", "var/cache"),
        Entry(kind=Kind.WHITEOUT, path="etc/shadow"),
        Entry(kind=Kind.OPAQUE, path="etc/old"),
        Entry(path="etc/old/three", data=b"3\n"),
        Entry(path="etc/passwd", data=b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
        Entry(path="var/cache/blob", data=b"replaced\n", uid=1000, gid=1000),
        Entry(kind=Kind.WHITEOUT, path="usr/bin/wall"),
    )


def demo_layers(
    source: Path | None = None, files: int = 2000, *, privileged: bool = True
) -> list[Layer]:
    """Layers with one of everything, and thousands of real files between.

    Args:
        source: where the real files come from; Python's library and packages when None.
        files: how many at most.
        privileged: with `security.capability` xattrs.
    """
    sources = source_directories() if source is None else (source,)
    real = tuple(_real_files(sources, files))
    half = len(real) // 2
    above = _directories("usr/lib/real") if len(sources) > 1 else ()
    return [
        Layer(entries=_base(privileged), compression=Compression.GZIP),
        Layer(
            entries=(*_directories("usr", "usr/lib"), *above, *real[:half]),
            compression=Compression.ZSTD,
        ),
        Layer(entries=real[half:], compression=Compression.GZIP),
        Layer(entries=_upper(), compression=Compression.NONE),
    ]
