"""Owner, mode, times and extended attributes of what a layer made, in the order that keeps them.

`chown` clears setuid bits and file capabilities, so it comes first; times come last.

Source: docs/spec/image-pull.md §12.2 and §12.3-6 to -8.
"""

import errno
import os
from functools import lru_cache
from typing import Final

from image_pull.layers.header import Entry
from image_pull.layers.record import Kept
from image_pull.layers.rules import clamp_time, is_settable_xattr

OWN_FILE: Final = 0o400
"""Bits of the owner on an unprivileged unpacker's files, so that they can be copied."""

OWN_DIRECTORY: Final = 0o700
"""The same for directories."""

CAPABILITY: Final = b"security.capability"


class Attributes:
    """Sets attributes on disk and notes what the disk did not take.

    Args:
        privileged: owners can be set; what then fails is an error, not noted.
    """

    def __init__(self, *, privileged: bool) -> None:
        self._privileged = privileged
        self.skipped = 0

    def set_on(self, fd: int, entry: Entry, own: int, *, special: bool = False) -> Kept | None:
        """Set all attributes on an open file or directory.

        Args:
            fd: the object.
            entry: what the layer says.
            own: permission bits that an unprivileged owner must keep.
            special: it is a FIFO, which cannot have `user.*`.

        Returns:
            What differs on disk, without its path; None for nothing.

        Raises:
            OSError: the system refused.
        """
        if self._privileged:
            os.fchown(fd, entry.uid, entry.gid)
            if entry.xattrs:
                self._set_xattrs(fd, entry.xattrs, special)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=_times(entry.atime, entry.mtime))
            return None
        lost = self._set_xattrs(fd, entry.xattrs, special) if entry.xattrs else {}
        mode = entry.mode | own
        os.fchmod(fd, mode)
        os.utime(fd, ns=_times(entry.atime, entry.mtime))
        changed = mode != entry.mode or (mode & 0o2000 and not os.fstat(fd).st_mode & 0o2000)
        if changed or lost or entry.uid or entry.gid:
            return _kept(entry, lost)
        return None

    def set_on_link(self, name: bytes, parent: int, entry: Entry) -> Kept | None:
        """Set owner and times of a symbolic link itself.

        Raises:
            OSError: the system refused.
        """
        if self._privileged:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=_times(entry.atime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        self.skipped += len(entry.xattrs)
        if not self._privileged and (entry.uid or entry.gid):
            return _kept(entry, {})
        return None

    def _set_xattrs(self, fd: int, xattrs: dict[bytes, bytes], special: bool) -> dict[bytes, bytes]:
        lost = {}
        for name, value in xattrs.items():
            if not is_settable_xattr(name):
                self.skipped += 1
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if not self._may_lose(name, error.errno, special):
                    raise
                if not self._privileged and not name.startswith(b"user."):
                    lost[name] = value
                else:
                    self.skipped += 1
        return lost

    def _may_lose(self, name: bytes, number: int | None, special: bool) -> bool:
        if name.startswith(b"user.") and special and number in (errno.EPERM, errno.EACCES):
            return True
        if number == errno.ENOTSUP:
            return name != CAPABILITY or not self._privileged
        return not self._privileged and number in (errno.EPERM, errno.EACCES)


@lru_cache(maxsize=64)
def _times(atime: int, mtime: int) -> tuple[int, int]:
    """As `os.utime` takes them; most entries of a layer have the same."""
    return clamp_time(atime), clamp_time(mtime)


def _kept(entry: Entry, lost: dict[bytes, bytes]) -> Kept:
    return Kept(path=b"", uid=entry.uid, gid=entry.gid, mode=entry.mode, xattrs=lost)
