"""File contents and extended attributes copied by descriptor; holes stay holes."""

import errno
import os
from typing import Final

CHUNK: Final = 1 << 20
_NO_RANGE: Final = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
)
_LOST: Final = frozenset((errno.EPERM, errno.EACCES, errno.ENOTSUP))
_OVERLAY: Final = b"trusted.overlay."


def copy_data(source: int, target: int) -> None:
    """Copy a whole file into an empty one.

    Raises:
        OSError: the disk refused.
    """
    size = os.fstat(source).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        position = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, position)
    os.ftruncate(target, size)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(source, target, end - start, start, start)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
            done = os.pwrite(target, os.pread(source, min(CHUNK, end - start), start), start)
        if not done:
            return
        start += done


def copy_xattrs(source: int, target: int) -> None:
    """Copy extended attributes as far as this process may set them; overlayfs's own never.

    Raises:
        OSError: the disk refused for another reason.
    """
    for name in map(os.fsencode, os.listxattr(source)):
        if name.startswith(_OVERLAY):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in _LOST:
                raise
