"""Our reading of mutated archives beside that of GNU tar, bsdtar and Go: the same, or none.

A reader may refuse what another takes; of two that take an archive, both see the same tree.
"""

import base64
import hashlib
import json
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from guest.errors import GuestError
from image_pull.layers.header import Entry, Kind
from image_pull.layers.rules import clamp_time
from image_pull.layers.tar import TarReader
from support import tar_mutants
from support import tarballs as tb

SECONDS: Final = 60.0
TREES: Final = 60
"""Mutants of each archive that are unpacked."""
LISTS: Final = 300
"""Mutants of each archive that are listed."""
SEED: Final = 2026
LARGEST: Final = 1 << 26
"""Bytes of the longest sparse file whose content is compared."""

GO_SOURCE: Final = Path(__file__).parent / "tar_reader" / "main.go"
GO_KINDS: Final = {
    ord("1"): Kind.HARD_LINK,
    ord("2"): Kind.SYMLINK,
    ord("3"): Kind.CHARACTER,
    ord("4"): Kind.BLOCK,
    ord("5"): Kind.DIRECTORY,
    ord("6"): Kind.FIFO,
}

Row = tuple[object, ...]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return tar_mutants.archives(tmp_path_factory.mktemp("archives"))


def kinds_of(archives: dict[str, bytes], count: int) -> Iterator[tuple[str, bytes]]:
    for name, archive in archives.items():
        yield name, archive
        for mutant in tar_mutants.mutants(archive, SEED, count):
            yield name, mutant


def tree_of(root: bytes) -> dict[bytes, Row]:
    """What was unpacked, but device nodes, which our unpacker leaves to the puller."""
    found: dict[bytes, Row] = {}
    for directory, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(directory, name)
            row = row_of(path, os.lstat(path))
            if row is not None:
                found[os.path.relpath(path, root)] = row
    return found


def row_of(path: bytes, status: os.stat_result) -> Row | None:
    kind = stat.S_IFMT(status.st_mode)
    mode: int | None = stat.S_IMODE(status.st_mode)
    time: int | None = clamp_time(status.st_mtime_ns) // 10**9
    content: object = None
    match kind:
        case stat.S_IFCHR | stat.S_IFBLK:
            return None
        case stat.S_IFLNK:
            mode, content = None, os.readlink(path)
        case stat.S_IFDIR:
            # bsdtar leaves an existing directory its mode; what is added changes the time
            mode = time = None
        case stat.S_IFREG:
            with open(path, "rb") as file:
                content = status.st_nlink, hashlib.sha256(file.read(LARGEST)).digest()
    size = status.st_size if kind == stat.S_IFREG else None
    return kind, mode, time, size, content, status.st_uid, status.st_gid


def unpack_ours(archive: bytes, target: Path) -> dict[bytes, Row] | None:
    try:
        tb.unpack_here(archive, target, privileged=os.geteuid() == 0)
    except GuestError:
        return None
    return tree_of(os.fsencode(target))


def unpack_theirs(program: str, archive: bytes, target: Path) -> dict[bytes, Row] | None:
    target.mkdir()
    command = (program, "-x", "-p", "-f", "-", "--numeric-owner", "-C", target)
    done = subprocess.run(command, input=archive, capture_output=True, timeout=SECONDS)
    # bsdtar looks for the next header when one is damaged, and says so, and succeeds
    if done.returncode != 0 or b"Damaged tar archive" in done.stderr:
        return None
    return tree_of(os.fsencode(target))


@pytest.mark.parametrize(
    "program", ["tar", pytest.param("bsdtar", marks=pytest.mark.bsdtar)], ids=["GNU tar", "bsdtar"]
)
def test_what_both_unpack_is_the_same_tree(
    archives: dict[str, bytes], tmp_path: Path, program: str
) -> None:
    both = 0
    for number, (name, archive) in enumerate(kinds_of(archives, TREES)):
        ours = unpack_ours(archive, tmp_path / f"{number}-ours")
        theirs = unpack_theirs(program, archive, tmp_path / f"{number}-theirs") if ours else None
        if ours is None or theirs is None:
            assert archive not in archives.values(), f"{name} itself is refused"
            continue
        both += 1
        assert ours == theirs, f"mutant {number} of {name}"
    assert both > TREES


def list_ours(archive: bytes) -> list[Row] | None:
    reader, found = TarReader(), list[tuple[Entry, bytearray]]()
    try:
        for event in reader.feed(archive):
            if isinstance(event, Entry):
                found.append((event, bytearray(min(event.size, LARGEST))))
            else:
                found[-1][1][event.offset : event.offset + len(event.view)] = event.view
        reader.finish()
    except GuestError:
        return None
    return [
        (
            *(entry.kind, entry.name, entry.link, entry.size, entry.mode, entry.uid, entry.gid),
            entry.mtime // 10**9,
            *(entry.major, entry.minor),
            hashlib.sha256(content).hexdigest() if entry.kind is Kind.REGULAR else "",
        )
        for entry, content in found
        if entry.size <= LARGEST
    ]


def go_row(entry: dict[str, Any]) -> Row:
    kind = GO_KINDS.get(entry["flag"], Kind.REGULAR)
    is_device = kind in (Kind.CHARACTER, Kind.BLOCK)
    return (
        *(kind, base64.b64decode(entry["name"] or ""), base64.b64decode(entry["link"] or "")),
        entry["size"] if kind is Kind.REGULAR else 0,
        *(entry["mode"] & 0o7777, entry["uid"], entry["gid"], entry["mtime"]),
        *((entry["major"], entry["minor"]) if is_device else (0, 0)),
        entry["digest"] if kind is Kind.REGULAR else "",
    )


@pytest.fixture(scope="module")
def list_go(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[list[bytes]], list[list[Row] | None]]:
    program = tmp_path_factory.mktemp("go") / "tar_reader"
    subprocess.run(
        ("go", "build", "-o", program, GO_SOURCE), check=True, timeout=SECONDS, cwd=GO_SOURCE.parent
    )

    def run(archives: list[bytes]) -> list[list[Row] | None]:
        stream = b"".join(struct.pack(">Q", len(archive)) + archive for archive in archives)
        done = subprocess.run((program,), input=stream, capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        return [
            answer and [go_row(e) for e in answer if e["flag"] != ord("g") and e["size"] <= LARGEST]
            for answer in answers
        ]

    return run


@pytest.mark.go
def test_what_go_lists_as_well_it_lists_alike(
    archives: dict[str, bytes], list_go: Callable[[list[bytes]], list[list[Row] | None]]
) -> None:
    both = 0
    mutants = list(kinds_of(archives, LISTS))
    theirs = list_go([archive for _, archive in mutants])
    for number, ((name, archive), listed) in enumerate(zip(mutants, theirs, strict=True)):
        ours = list_ours(archive)
        if ours is None or listed is None:
            assert archive not in archives.values(), f"{name} itself is refused"
            continue
        both += 1
        assert ours == listed, f"mutant {number} of {name}"
    assert both > LISTS
