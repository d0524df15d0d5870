"""The directory `/run/peerpod`: files appear whole, all of them or none, and only in it.

Source: docs/spec/podvm-image.md 5.4 (modes, order) and 20 ("Files are written in place").
"""

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from guest.errors import LimitError, PlatformError

DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644
PRIVATE_MODE: Final = 0o600

_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP: Final = _DIRECTORY | os.O_PATH  # needs no permission to list
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PeerPodDirectory:
    """One directory, held by its descriptor; a context manager.

    Symbolic links are followed nowhere: not on the way to the directory, not in it.
    """

    def __init__(self, path: Path) -> None:
        """Open it, made where it is missing.

        Args:
            path: absolute.

        Raises:
            PlatformError: it cannot be made or opened, or a link is on the way.
        """
        self._path = path
        try:
            self._fd = _open_directory(path)
        except OSError as error:
            raise PlatformError(f"directory {path} cannot be opened") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def find(self, name: str, limit: int) -> bytes | None:
        """What a file holds, None when there is none.

        Raises:
            PlatformError: it is not a regular file, or cannot be read.
            LimitError: it is longer than `limit` bytes.
        """
        return find_file(Path(name), limit, dir_fd=self._fd, shown=self._path / name)

    def replace(self, files: Mapping[str, bytes], *, mode: int, unwanted: Iterable[str]) -> None:
        """Write all files beside, then give them their names in the order given.

        Args:
            files: names to contents; a file of that name is replaced, also a link.
            mode: of each of them.
            unwanted: names that are removed before the first file appears.

        Raises:
            PlatformError: something could not be written; before the first name was given
                nothing has changed.
        """
        written: list[str] = []
        try:
            for name, content in files.items():
                self._remove(_beside(name))
                written.append(name)
                self._write(_beside(name), content, mode)
            for name in unwanted:
                self._remove(name)
            while written:
                name = written[0]
                os.rename(_beside(name), name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
                del written[0]
        except OSError as error:
            raise PlatformError(f"{self._path} cannot be written") from error
        finally:
            for name in written:
                with suppress(OSError):  # what is left has no meaning to anybody
                    self._remove(_beside(name))

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):  # that is what is wanted
            os.unlink(name, dir_fd=self._fd)

    def _write(self, name: str, content: bytes, mode: int) -> None:
        with open(os.open(name, _CREATE, 0o600, dir_fd=self._fd), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def find_file(
    path: Path, limit: int, *, dir_fd: int | None = None, shown: Path | None = None
) -> bytes | None:
    """What a regular file holds; None when there is none.

    Args:
        path: the last part is not followed if it is a link.
        limit: bytes.
        dir_fd: what a relative path begins at.
        shown: the path in errors.

    Raises:
        PlatformError: anything but `ENOENT`, or no regular file.
        LimitError: longer than `limit`.
    """
    shown = shown or path
    try:
        descriptor = os.open(path, _READ, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlatformError(f"{shown} cannot be opened") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PlatformError(f"{shown} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise PlatformError(f"{shown} cannot be read") from error
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise LimitError(f"{shown} is longer than {limit} bytes")
    return content


def _beside(name: str) -> str:
    return f".{name}.new"


def _open_directory(path: Path) -> int:
    """A descriptor of it, one step at a time; each step that is missing is made."""
    here = os.open("/", _STEP)
    for part in path.parts[1:]:
        try:
            below = _step(here, part)
        finally:
            os.close(here)
        here = below
    return here


def _step(here: int, part: str) -> int:
    try:
        return os.open(part, _STEP, dir_fd=here)
    except FileNotFoundError:
        os.mkdir(part, DIRECTORY_MODE, dir_fd=here)
        below = os.open(part, os.O_RDONLY | _DIRECTORY, dir_fd=here)
        os.fchmod(below, DIRECTORY_MODE)  # whatever the umask is
        return below
