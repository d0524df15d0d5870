"""Compares an unpacked root filesystem with the files the image was built from."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guest_simulator.images.entries import Entry, Kind

PRIVILEGED_XATTRS: Final = ("security.", "trusted.")

MAX_SHOWN: Final = 10
"""Differences that are listed; the rest is counted."""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What was compared.

    Attributes:
        privileged: owners, devices and privileged xattrs were compared on disk.
        counts: files by kind.
        differences: one line each.
    """

    privileged: bool
    counts: dict[Kind, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def total(self) -> int:
        """Paths that were compared."""
        return sum(self.counts.values())


def compare(
    root: Path, expected: Mapping[str, Entry], recorded: Mapping[bytes, "Facts"] | None
) -> Comparison:
    """Walk both sides: every expected path is there and alike, and nothing else is there.

    Args:
        root: the unpacked root filesystem.
        expected: path without leading slash to entry, whiteouts already applied.
        recorded: None when owners, devices and xattrs are on disk; else what the puller's
            records say of the paths where the disk differs.
    """
    result = Comparison(privileged=recorded is None)
    for path, entry in sorted(expected.items()):
        result.counts[entry.kind] = result.counts.get(entry.kind, 0) + 1
        for difference in _differences(root, path, entry, expected, recorded):
            result.differences.append(f"{path}: {difference}")
    extra = sorted(_walk(root) - set(expected))
    result.differences += [f"{path}: not in the image" for path in extra]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a record says of one path.

    Attributes:
        mode: the twelve permission bits.
        device: file type, major and minor number of a device; None for anything else.
        xattrs: extended attributes that are not on disk.
    """

    uid: int
    gid: int
    mode: int
    device: tuple[int, int, int] | None = None
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


def _walk(root: Path) -> set[str]:
    found: set[str] = set()
    for directory, folders, files in os.walk(root):
        base = os.path.relpath(directory, root)
        found |= {os.path.normpath(os.path.join(base, name)) for name in folders + files}
    return found


def _differences(
    root: Path,
    path: str,
    entry: Entry,
    expected: Mapping[str, Entry],
    recorded: Mapping[bytes, Facts] | None,
) -> list[str]:
    facts = None if recorded is None else recorded.get(os.fsencode(path))
    if recorded is not None and entry.kind in (Kind.CHARACTER, Kind.BLOCK):
        return _device_in_record(entry, facts)
    try:
        found = os.lstat(root / path)
    except FileNotFoundError:
        return ["missing"]
    if entry.kind is Kind.HARD_LINK:
        target = os.lstat(root / entry.target.lstrip("/"))
        return [] if os.path.samestat(found, target) else [f"not a link to {entry.target}"]
    problems = _type_and_content(root / path, entry, found)
    if entry.kind is not Kind.SYMLINK:
        mode = facts.mode if facts else stat.S_IMODE(found.st_mode)
        if mode != entry.mode:
            problems.append(f"mode {mode:o}, expected {entry.mode:o}")
    owner = (found.st_uid, found.st_gid)
    if recorded is not None:
        owner = (facts.uid, facts.gid) if facts else (0, 0)
    if owner != (entry.uid, entry.gid):
        problems.append(f"owner {owner}, expected {(entry.uid, entry.gid)}")
    return problems + _xattrs(root / path, entry, facts)


def _device_in_record(entry: Entry, facts: Facts | None) -> list[str]:
    kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER else stat.S_IFBLK
    wanted = (kind, entry.major, entry.minor)
    if facts is None or facts.device != wanted:
        return ["device is not in the layer's record"]
    return []


_TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}


def _type_and_content(path: Path, entry: Entry, found: os.stat_result) -> list[str]:
    if stat.S_IFMT(found.st_mode) != _TYPES[entry.kind]:
        return [f"is not a {entry.kind.name.lower()}"]
    match entry.kind:
        case Kind.FILE:
            same = found.st_size == len(entry.data) and path.read_bytes() == entry.data
            return [] if same else ["content differs"]
        case Kind.SYMLINK:
            return [] if os.readlink(path) == entry.target else ["leads elsewhere"]
        case Kind.CHARACTER | Kind.BLOCK:
            same = (os.major(found.st_rdev), os.minor(found.st_rdev)) == (entry.major, entry.minor)
            return [] if same else ["another device"]
        case _:
            return []


def _xattrs(path: Path, entry: Entry, facts: Facts | None) -> list[str]:
    problems = []
    for name, value in entry.xattrs.items():
        kept = None if facts is None else facts.xattrs.get(os.fsencode(name))
        try:
            found = kept if kept is not None else os.getxattr(path, name, follow_symlinks=False)
        except OSError:
            found = None
        if found != value:
            problems.append(f"xattr {name} differs")
    return problems
