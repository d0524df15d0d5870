"""What a directory tree holds, so that two unpackers' trees can be told apart.

All that an image can say of a file is compared: kind, mode, owner, time of modification to the
nanosecond, extended attributes, content, link target, device number, and which names are one file.
Left out are the attributes that overlayfs keeps for itself.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

OVERLAY: Final = ("trusted.overlay.", "user.overlay.")


class Row(NamedTuple):
    """One name."""

    mode: int
    owner: tuple[int, int]
    mtime: int
    device: tuple[int, int]
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...]
    """All names of this file, sorted; of a directory none."""


def rows_of(root: Path) -> dict[str, Row]:
    """Every name below a root, the root itself as `.`."""
    found = {path: (full, os.lstat(full)) for path, full in _paths(root)}
    groups: dict[tuple[int, int], list[str]] = {}
    for path, (_, status) in found.items():
        if not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {
        path: _row(full, status, tuple(sorted(groups.get((status.st_dev, status.st_ino), ()))))
        for path, (full, status) in found.items()
    }


def _paths(root: Path) -> Iterator[tuple[str, str]]:
    yield ".", str(root)
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            full = f"{folder}/{name}"
            yield os.path.relpath(full, root), full


def _row(full: str, status: os.stat_result, names: tuple[str, ...]) -> Row:
    is_node = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_node else (0, 0)
    content = ""
    if stat.S_ISREG(status.st_mode):
        with open(full, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(full)
    xattrs = tuple(
        (name, os.getxattr(full, name, follow_symlinks=False))
        for name in sorted(os.listxattr(full, follow_symlinks=False))
        if not name.startswith(OVERLAY)
    )
    owner = status.st_uid, status.st_gid
    return Row(status.st_mode, owner, status.st_mtime_ns, device, content, xattrs, names)


def differences(ours: dict[str, Row], theirs: dict[str, Row]) -> list[str]:
    """One line for every name that is not alike in both."""
    lines = [f"only ours: {path}" for path in sorted(ours.keys() - theirs.keys())]
    lines += [f"only theirs: {path}" for path in sorted(theirs.keys() - ours.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        fields = [
            f"{field} {one!r}, theirs {other!r}"
            for field, one, other in zip(Row._fields, ours[path], theirs[path], strict=True)
            if one != other
        ]
        if fields:
            lines.append(f"{path}: {'; '.join(fields)}")
    return lines
