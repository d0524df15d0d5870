"""Archives of every dialect, and what chance makes of them.

A mutant of a header gets a good checksum again: else no reader would look any further.
"""

import io
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from support import tarballs as tb

BLOCK: Final = 512
CHECKSUM: Final = slice(148, 156)
META: Final = b"xgLK"

FIELDS: Final = (
    (0, 100),  # name
    (100, 8),  # mode
    (108, 8),  # uid
    (116, 8),  # gid
    (124, 12),  # size
    (136, 12),  # mtime
    (156, 1),  # type
    (157, 100),  # link
    (257, 8),  # magic and version
    (329, 8),  # major
    (337, 8),  # minor
    (345, 155),  # prefix
    (345, 12),  # atime (GNU)
    (386, 96),  # sparse map (GNU)
    (482, 1),  # sparse map goes on (GNU)
    (483, 12),  # real size (GNU)
)
"""Offset and length of a header's fields."""

NUMBERS: Final = (
    b"",
    b"0",
    b"17",
    b" 17",
    b"17 ",
    b"17\0x",
    b"0000000017",
    b"1777",
    b"18",
    b"-1",
    b"+1",
    b"0x1",
    b"7777777",
    b"77777777777",
    b"\x80" + bytes(6) + b"\x05",
    b"\x80" + bytes(10) + b"\x05",
    b"\xff" * 12,
    b"\xff" * 8,
    b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
)
TYPES: Final = b"0\x00123456 7gxXLKSDMVNAz"
NAMES: Final = (
    b"a",
    b"dir/new",
    b"dir/file",
    b"dir",
    b"dir/",
    b"./dir//file",
    b"link",
    b"link/below",
    b"x" * 100,
    b"a\0b",
    b"\xff\xfe",
    b"",
    b".",
    b"./",
)
RECORDS: Final = (
    (b"path", b"renamed"),
    (b"path", b""),
    (b"path", b"dir/from-pax"),
    (b"path", b"dir/\xc3\xa9"),
    (b"linkpath", b"file"),
    (b"linkpath", b""),
    (b"size", b"0"),
    (b"size", b"5"),
    (b"size", b"-1"),
    (b"size", b"05"),
    (b"size", b"99999999999999999999"),
    (b"uid", b"12"),
    (b"gid", b"x"),
    (b"mtime", b"123.5"),
    (b"mtime", b"123."),
    (b"mtime", b".5"),
    (b"mtime", b"1e3"),
    (b"mtime", b""),
    (b"unknown", b"1"),
    (b"GNU.sparse.realsize", b"700"),
    (b"GNU.sparse.major", b"1"),
    (b"GNU.sparse.minor", b"0"),
    (b"GNU.sparse.name", b"sparse-name"),
    (b"GNU.sparse.map", b"0,5"),
    (b"GNU.sparse.size", b"100"),
    (b"GNU.sparse.numblocks", b"1"),
)


def make_tree(place: Path) -> None:
    """A small tree with one of each kind that an unprivileged user can make."""
    (place / "dir").mkdir(parents=True)
    (place / "dir" / "file").write_bytes(b"content of the file\n" * 40)
    (place / "dir" / "empty").write_bytes(b"")
    (place / "dir" / "hard").hardlink_to(place / "dir" / "file")
    (place / "link").symlink_to("dir/file")
    long_name = "/".join(["a-directory-of-a-long-name"] * 5)
    (place / long_name).mkdir(parents=True)
    (place / long_name / ("f" * 101)).write_bytes(b"deep")
    with (place / "sparse").open("wb") as file:
        for number in range(7):
            file.seek(number * 20_000)
            file.write(b"island %d" % number)
        file.truncate(150_000)


def archives(place: Path) -> dict[str, bytes]:
    """The tree as the writers of the field write it, and one as the standard library does."""
    tree = place / "tree"
    make_tree(tree)
    written = {}
    for name, options in {
        "v7": ("--format=v7", "--exclude=a-dir*", "--exclude=sparse"),
        "ustar": ("--format=ustar", "--exclude=fff*", "--exclude=sparse"),
        "gnu": ("--format=gnu",),
        "oldgnu": ("--format=oldgnu", "--sparse"),
        "pax": ("--format=pax",),
        "pax-0.0": ("--format=pax", "--sparse", "--sparse-version=0.0"),
        "pax-0.1": ("--format=pax", "--sparse", "--sparse-version=0.1"),
        "pax-1.0": ("--format=pax", "--sparse", "--sparse-version=1.0"),
    }.items():
        command = (
            "tar",
            "--create",
            "--blocking-factor=1",
            "--sort=name",
            *options,
            "-C",
            str(tree),
        )
        done = subprocess.run((*command, "."), capture_output=True, check=True, timeout=60)
        written[name] = done.stdout
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(tree, ".")
    written["python"] = stream.getvalue()
    return written


def mutants(archive: bytes, seed: int, count: int) -> Iterator[bytes]:
    """So many mutants, the same ones for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        changed = bytearray(archive)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            chance.choice(MUTATIONS)(changed, chance)
        yield bytes(changed)


def headers(archive: bytes | bytearray) -> list[int]:
    """Offsets of what look like headers."""
    return [
        offset
        for offset in range(0, len(archive) - BLOCK + 1, BLOCK)
        if archive[offset] and archive[offset + 148 : offset + 154].strip(b" \0").isdigit()
    ]


def _seal(archive: bytearray, offset: int) -> None:
    block = archive[offset : offset + BLOCK]
    block[CHECKSUM] = b" " * 8
    archive[offset + 148 : offset + 156] = b"%06o\0 " % sum(block)


def _some_header(archive: bytearray, chance: random.Random) -> int | None:
    found = headers(archive)
    return chance.choice(found) if found else None


def _field(archive: bytearray, chance: random.Random) -> None:
    offset = _some_header(archive, chance)
    if offset is None:
        return
    start, length = chance.choice(FIELDS)
    if length == 1:
        value = bytes([chance.choice(TYPES)])
    elif length > 12:
        value = chance.choice(NAMES).ljust(length, b"\0")
    else:
        value = chance.choice(NUMBERS)
        fill = chance.choice((b"\0", b" "))
        value = value.ljust(length, fill) if chance.random() < 0.7 else value.rjust(length, b"0")
    archive[offset + start : offset + start + length] = value[:length]
    _seal(archive, offset)


def _flip_in_header(archive: bytearray, chance: random.Random) -> None:
    offset = _some_header(archive, chance)
    if offset is None:
        return
    archive[offset + chance.randrange(BLOCK)] ^= 1 << chance.randrange(8)
    _seal(archive, offset)


def _flip(archive: bytearray, chance: random.Random) -> None:
    archive[chance.randrange(len(archive))] ^= 1 << chance.randrange(8)


def _drop_block(archive: bytearray, chance: random.Random) -> None:
    start = chance.randrange(0, len(archive), BLOCK)
    if len(archive) > 2 * BLOCK:
        del archive[start : start + BLOCK]


def _double_block(archive: bytearray, chance: random.Random) -> None:
    start = chance.randrange(0, len(archive), BLOCK)
    archive[start:start] = archive[start : start + BLOCK]


def _zero_block(archive: bytearray, chance: random.Random) -> None:
    offset = _some_header(archive, chance)
    if offset is not None:
        archive[offset:offset] = bytes(BLOCK)


def _cut(archive: bytearray, chance: random.Random) -> None:
    del archive[chance.randrange(BLOCK, len(archive)) :]


def _insert_pax(archive: bytearray, chance: random.Random) -> None:
    offset = _some_header(archive, chance)
    if offset is None:
        return
    records = chance.sample(RECORDS, chance.choice((1, 1, 2, 3)))
    block = bytearray(tb.pax(*records, flag=chance.choice((b"x", b"x", b"x", b"g"))))
    if chance.random() < 0.2:
        block[BLOCK + chance.randrange(8)] ^= 1 << chance.randrange(8)
    archive[offset:offset] = block


def _insert_long(archive: bytearray, chance: random.Random) -> None:
    offset = _some_header(archive, chance)
    if offset is None:
        return
    value = chance.choice((b"long-name", b"long/name\0", b"n" * 300 + b"\0", b"", b"two\0names\0"))
    flag = chance.choice((b"L", b"K"))
    archive[offset:offset] = tb.file(b"././@LongLink", value, flag=flag, magic=b"ustar  \0")


MUTATIONS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    _field,
    _field,
    _field,
    _flip_in_header,
    _flip,
    _drop_block,
    _double_block,
    _zero_block,
    _cut,
    _insert_pax,
    _insert_pax,
    _insert_long,
)
