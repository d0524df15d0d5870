"""Where a fetched artifact appears: nothing is seen at its path before all of it is.

Source: docs/ARCHITECTURE.md, decision 7.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from guest.errors import InvalidInputError, LimitError, PlatformError
from image_pull.artifact import ArtifactFile
from image_pull.layers.remove import remove_tree

SUFFIX: Final = ".fetch"
PART: Final = ".part"
TREE: Final = "tree"
LOCK: Final = "lock"


class Destination:
    """One artifact's place. All methods block."""

    def __init__(self, path: Path) -> None:
        """Appear at `path`, which is absolute; use it within `claimed`."""
        self._path = path
        self._stage = path.with_name(f".{path.name}{SUFFIX}")

    @contextmanager
    def claimed(self) -> Iterator[Self]:
        """Have the place alone; what is under way stays in a directory beside it.

        Raises:
            InvalidInputError: something is there, or another process fetches to it.
            PlatformError: the disk refuses.
        """
        try:
            self._stage.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(
                self._stage / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise PlatformError(f"{self._stage} cannot be used: {error.strerror}") from error
        try:
            self._take(lock)
            yield self
        finally:
            os.close(lock)

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInputError(f"another process fetches to {self._path}") from error
        if os.path.lexists(self._path):
            with contextlib.suppress(OSError):  # of a fetch that ended; it is in nobody's way
                remove_tree(self._stage)
            raise InvalidInputError(f"{self._path} exists already")

    def part(self, file: ArtifactFile) -> Path:
        """The file under way of a blob."""
        return self._stage / f"{file.descriptor.digest.hex}{PART}"

    def prepare(self, files: Sequence[ArtifactFile]) -> int:
        """Remove what other artifacts left, and see that this one can fit: the bytes it needs.

        Raises:
            LimitError: it cannot, with both numbers.
            PlatformError: the disk refuses.
        """
        blobs = {self.part(file): file.descriptor.size for file in files}
        try:
            for entry in self._stage.iterdir():
                if entry not in blobs and entry.name != LOCK:
                    remove_tree(entry)
            there = sum(path.stat().st_size for path in blobs if path.exists())
            status = os.statvfs(self._stage)
        except OSError as error:
            raise PlatformError(f"{self._stage} cannot be used: {error.strerror}") from error
        needed, free = sum(blobs.values()) - there, status.f_bavail * status.f_frsize
        if needed > free:
            raise LimitError(f"artifact needs {needed} bytes more, {free} bytes are free")
        return needed

    def publish(self, files: Sequence[ArtifactFile]) -> None:
        """Let all of it appear by one step.

        Raises:
            PlatformError: something is there by now, or the disk refuses.
        """
        try:
            if not files[0].parts:
                os.link(self.part(files[0]), self._path)
            else:
                self._build(files)
                os.rename(self._stage / TREE, self._path)
            _sync(self._path.parent)
            remove_tree(self._stage)
        except OSError as error:
            raise PlatformError(f"{self._path} cannot appear: {error.strerror}") from error

    def _build(self, files: Sequence[ArtifactFile]) -> None:
        tree, linked = self._stage / TREE, set[Path]()
        tree.mkdir(mode=0o755)
        for file in files:
            target = tree.joinpath(*file.parts)
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            part = self.part(file)
            if part in linked:  # two names are two files
                shutil.copy(part, target)
            else:
                os.link(part, target)
            linked.add(part)
        for directory, _, _ in os.walk(tree):
            _sync(Path(directory))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
