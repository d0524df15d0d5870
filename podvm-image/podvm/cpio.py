"""A cpio archive ("newc") for an initrd: fixed times and owners, entries in order. Sans-I/O.

Source: kernel documentation, driver-api/early-userspace/buffer-format.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, directory, symbolic link or character device.

    Attributes:
        mode: type and permissions as in `st_mode`.
        data: content of a file, target of a symbolic link.
        device: major and minor number of a device.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(mode=stat.S_IFDIR | permissions)


def file(data: bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(mode=stat.S_IFREG | permissions, data=data)


def symlink(target: str) -> Entry:
    """A symbolic link."""
    return Entry(mode=stat.S_IFLNK | 0o777, data=target.encode())


def encode(entries: Mapping[str, Entry]) -> bytes:
    """Archive entries by path (relative, no leading slash), sorted; parents are added.

    Every entry belongs to root, is as old as 1970, and has its number as inode.
    """
    whole = dict(entries)
    for path in entries:
        parent = path.rpartition("/")[0]
        while parent and parent not in whole:
            whole[parent] = directory()
            parent = parent.rpartition("/")[0]
    archive = bytearray()
    for number, path in enumerate(sorted(whole), start=1):
        archive += _record(path, whole[path], number)
    archive += _record("TRAILER!!!", Entry(mode=0), 0)
    return bytes(archive)


def _record(path: str, entry: Entry, number: int) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0
    )  # fmt: skip
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
