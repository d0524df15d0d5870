"""Directory trees removed without following a link, at any depth, with two descriptors.

Only for trees that nobody else writes to any more.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a directory is opened: itself or not at all."""


def remove_entry(parent: int, name: bytes) -> None:
    """Remove what `name` is in the directory `parent`, with everything below it.

    Raises:
        OSError: it does not exist or the system refused.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    directory = _open_for_removal(parent, name)
    try:
        empty_directory(directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def remove_tree(path: os.PathLike[str]) -> None:
    """Remove a directory and everything below it; nothing happens when it is not there.

    Only a type of `os`: the unpack server has no use for what `pathlib` imports.

    Raises:
        OSError: the system refused.
    """
    above, name = os.path.split(path)
    try:
        parent = os.open(above or ".", DIRECTORY & ~os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        remove_entry(parent, os.fsencode(name))
    except FileNotFoundError:
        return
    finally:
        os.close(parent)


def empty_directory(top: int) -> None:
    """Remove everything in the directory; nested ones move up, so that depth costs nothing.

    Raises:
        OSError: the system refused.
    """
    names = _fresh_names(set(os.listdir(top)))
    waiting = [os.fsencode(name) for name in os.listdir(top)]
    while waiting:
        name = waiting.pop()
        if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=top)
            continue
        directory = _open_for_removal(top, name)
        try:
            for inner in map(os.fsencode, os.listdir(directory)):
                if stat.S_ISDIR(os.stat(inner, dir_fd=directory, follow_symlinks=False).st_mode):
                    os.chmod(inner, 0o700, dir_fd=directory)
                    fresh = next(names)
                    os.rename(inner, fresh, src_dir_fd=directory, dst_dir_fd=top)
                    waiting.append(fresh)
                else:
                    os.unlink(inner, dir_fd=directory)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _fresh_names(taken: set[str]) -> Iterator[bytes]:
    number = 0
    while True:
        name = f".removing-{number}"
        number += 1
        if name not in taken:
            yield name.encode("ascii")


def _open_for_removal(parent: int, name: bytes) -> int:
    """Open a directory that may have no permission bits at all."""
    os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, DIRECTORY, dir_fd=parent)
