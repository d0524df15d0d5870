"""Mounts as the kernel does and shows them. Everything here blocks.

Source: docs/spec/confidential-data-hub.md 10.3, step 4; Linux mount(2), umount2(2), proc(5).
"""

import errno
import os
from typing import Final

from image_pull.store import syscalls

MOUNTINFO: Final = "/proc/self/mountinfo"
MS_NOATIME: Final = 1024
NOT_MOUNTED: Final = frozenset({errno.EINVAL, errno.ENOENT})
"""Errors of umount2(2) when nothing is mounted there."""


class KernelMounts:
    """The mounts of this process's mount namespace."""

    def mount(self, node: str, target: bytes, kind: str) -> None:
        """Mount a device without access times.

        Raises:
            OSError: the kernel refuses.
        """
        syscalls.mount(node, target, kind, b"", MS_NOATIME)

    def unmount(self, target: bytes) -> None:
        """Unmount what was mounted there last; what is in use goes when it is not any more.

        Raises:
            OSError: the kernel refuses.
        """
        try:
            syscalls.unmount(target, detach=False)
        except OSError as error:
            if error.errno in NOT_MOUNTED:
                return
            if error.errno != errno.EBUSY:
                raise
            syscalls.unmount(target, detach=True)

    def count(self, target: bytes) -> int:
        """How many mounts lie on a directory, given by its real path.

        Raises:
            OSError: mounts cannot be listed.
        """
        with open(MOUNTINFO, "rb") as file:
            points = [line.split(b" ", 5)[4] for line in file if line.count(b" ") > 5]
        return sum(1 for point in points if _unescaped(point) == target)


def real_path(mount_point: str) -> bytes:
    """A mount point without symbolic links on its way, as the kernel lists it."""
    return os.path.realpath(os.fsencode(mount_point))


def _unescaped(point: bytes) -> bytes:
    for octal, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        point = point.replace(octal, plain)
    return point
