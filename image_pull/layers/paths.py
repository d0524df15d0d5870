"""Directories reached from a root component by component, never through a link."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from image_pull.layers.record import split_path
from image_pull.layers.remove import DIRECTORY


@contextmanager
def open_directory(root: int, path: bytes) -> Iterator[int]:
    """A descriptor of the directory `path` below `root`, for the block; the empty one is `root`.

    Raises:
        DecodeError: the path is not plain.
        OSError: a component is missing (`FileNotFoundError`), no directory or a link
            (`NotADirectoryError`), or the system refused.
    """
    here = os.dup(root)
    try:
        for part in split_path(path) if path else ():
            below = os.open(part, DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def split_parent(path: bytes) -> tuple[bytes, bytes]:
    """The parent's path and the last component."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def remove_if_empty(directory: int, name: bytes) -> None:
    """Remove a directory in another one, unless something is in it.

    Raises:
        OSError: it is no directory, or the system refused.
    """
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
