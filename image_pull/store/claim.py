"""Who makes a bundle: one file in it says so, until the bundle is whole or gone again.

The file is locked by the process that makes the bundle. One that nobody locks was left by a
process that died, and what was made beside it is then nobody's. It becomes `config.json` by a
link; removing it is what makes the bundle whole.

Source: docs/ARCHITECTURE.md, section 5 (kill -9 at any write point); docs/spec/image-pull.md 15.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guest.errors import InvalidInputError

MARK: Final = ".image-pull"
STARTED: Final = b"\n"
"""What the file holds from the moment at which the bundle was seen to be free."""

UNDOING: Final = b"-"
"""What it holds while a whole bundle is undone, `config.json` included."""

FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Claim:
    """The right to change one bundle.

    Attributes:
        is_leftover: a process died that had made something.
        was_undoing: it was taking a whole bundle apart.
    """

    def __init__(self, bundle: Path, descriptor: int, was_there: bool) -> None:
        """Use `claimed`."""
        self._path = bundle / MARK
        self._descriptor = descriptor
        before = os.pread(descriptor, len(UNDOING), 0) if was_there else b""
        self.is_leftover = before != b""
        self.was_undoing = before == UNDOING

    def start(self, *, undoing: bool = False) -> None:
        """Say that all that is in the bundle from now on is ours.

        Args:
            undoing: `config.json` too, which somebody else may have written again since.

        Raises:
            OSError: the disk refuses.
        """
        self._write(UNDOING if undoing else STARTED)

    def is_mine(self, path: Path) -> bool:
        """Whether a file is this claim's, under another name.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        return os.path.samestat(status, os.fstat(self._descriptor))

    def publish(self, path: Path, content: bytes) -> None:
        """Appear whole as `path`, or fail if something is there.

        Raises:
            OSError: something is there, or the disk refuses.
        """
        self._write(content)
        os.fchmod(self._descriptor, 0o644)
        os.link(self._path, path)

    def _write(self, content: bytes) -> None:
        """Never empty in between, for an empty one says that nothing was made yet."""
        view, offset = memoryview(content), 0
        while offset < len(view):
            offset += os.pwrite(self._descriptor, view[offset:], offset)
        os.ftruncate(self._descriptor, len(view))

    def end(self) -> None:
        """The bundle is whole, or as if nothing had been.

        Raises:
            OSError: the disk refuses.
        """
        with contextlib.suppress(FileNotFoundError):  # the caller may remove all of its bundle
            os.unlink(self._path)


@contextlib.contextmanager
def claimed(bundle: Path) -> Iterator[Claim]:
    """Hold the claim to an existing directory; it stays on disk unless it is ended.

    Raises:
        InvalidInputError: another pull, of whatever process, has it.
        OSError: the disk refuses.
    """
    descriptor, was_there = _take(bundle)
    try:
        yield Claim(bundle, descriptor, was_there)
    finally:
        os.close(descriptor)


def has_claim(bundle: Path) -> bool:
    """Whether somebody makes the bundle, or died over it."""
    return os.path.lexists(bundle / MARK)


def _take(bundle: Path) -> tuple[int, bool]:
    path = bundle / MARK
    while True:
        was_there = False
        try:
            descriptor = os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            was_there = True
            try:
                descriptor = os.open(path, FLAGS)
            except FileNotFoundError:
                continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor, was_there
        except FileNotFoundError:
            pass  # whoever had it ended meanwhile
        except BlockingIOError as error:
            os.close(descriptor)
            raise InvalidInputError(f"another pull makes {bundle}") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
