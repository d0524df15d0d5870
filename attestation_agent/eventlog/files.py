"""The files of the event log, each step of which survives a crash. Blocks.

Source: docs/spec/attestation-agent.md 7.1, 7.5 and 7.6.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attestation_agent.hardware.steps import Steps
from guest.errors import LimitError, PlatformError

DIRECTORY: Final = "/run/attestation-agent"
LOG_NAME: Final = "eventlog"
RECORD_NAME: Final = ".wal_event_entry"
REGISTER_NAME: Final = ".wal_event_register"

DIRECTORY_MODE: Final = 0o755
LOG_MODE: Final = 0o644
"""Others read the log; it holds no secret."""

RECORD_MODE: Final = 0o600
MAX_RECORD_BYTES: Final = 128 * 1024
MAX_REGISTER_BYTES: Final = 32


class LogFiles:
    """The directory of the log; every failure names path, step and errno."""

    def __init__(self, directory: str) -> None:
        """Touch nothing; `directory` is `DIRECTORY` or the same in another tree."""
        self._directory = directory
        self.path: Final = os.path.join(directory, LOG_NAME)
        self._record = os.path.join(directory, RECORD_NAME)
        self._register = os.path.join(directory, REGISTER_NAME)

    def prepare(self, steps: Steps) -> None:
        """Make the directory, with parents, and an empty log where there is none.

        Raises:
            PlatformError: that fails.
        """
        with steps.at(self._directory, "mkdir"):
            if not os.path.isdir(self._directory):
                os.makedirs(self._directory, exist_ok=True)
                os.chmod(self._directory, DIRECTORY_MODE)
        with _opened(self.path, os.O_WRONLY | os.O_CREAT, LOG_MODE, steps) as handle:
            with steps.at(self.path, "chmod"):
                os.fchmod(handle, LOG_MODE)

    def read_log(self, limit: int, steps: Steps) -> bytes:
        """The whole log.

        Raises:
            LimitError: it is longer than `limit` bytes.
            PlatformError: it cannot be read.
        """
        return _read(self.path, limit, steps)

    def put_entry(self, offset: int, entry: bytes, steps: Steps) -> None:
        """Write an entry in one piece, drop whatever stood behind its beginning, and sync.

        Raises:
            PlatformError: that fails; the log may end in a part of the entry then.
        """
        with _opened(self.path, os.O_RDWR, 0, steps) as handle:
            with steps.at(self.path, "stat"):
                length = os.fstat(handle).st_size
            if length < offset:
                raise PlatformError(f"{self.path}: write: the log has {length} bytes, not {offset}")
            end = offset + len(entry)
            with steps.at(self.path, "write"):
                taken = os.pwrite(handle, entry, offset)
                if taken != len(entry):
                    raise OSError(errno.ENOSPC, "short write")
                if length > end:
                    os.ftruncate(handle, end)
            with steps.at(self.path, "fdatasync"):
                os.fdatasync(handle)

    def put_record(self, record: bytes, register: int, steps: Steps) -> None:
        """Write the record ahead and which register it is about; both there, or no record.

        Raises:
            PlatformError: that fails; there is no record then.
        """
        self._put(self._register, f"{register}\n".encode(), steps)
        self._put(self._record, record, steps)

    def find_record(self, steps: Steps) -> bytes | None:
        """The record that a crash or a failure left; None where there is none.

        Raises:
            PlatformError: it is there and cannot be read.
            LimitError: it is too long to be one.
        """
        return _find(self._record, MAX_RECORD_BYTES, steps)

    def find_register(self, steps: Steps) -> bytes | None:
        """The text of the register's file; None where there is none.

        Raises:
            PlatformError: it is there and cannot be read.
            LimitError: it is too long to be one.
        """
        return _find(self._register, MAX_REGISTER_BYTES, steps)

    def drop_record(self, steps: Steps) -> None:
        """Remove the record, then the register's file; either may be gone.

        Raises:
            PlatformError: that fails.
        """
        for path in (self._record, self._register):
            with steps.at(path, "unlink"):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    continue
                self._sync_directory()

    def _put(self, path: str, content: bytes, steps: Steps) -> None:
        temporary = f"{path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with _opened(temporary, flags, RECORD_MODE, steps) as handle:
            with steps.at(temporary, "write"):
                if os.write(handle, content) != len(content):
                    raise OSError(errno.ENOSPC, "short write")
                os.fsync(handle)
        with steps.at(path, "rename"):
            os.rename(temporary, path)
            self._sync_directory()

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def find_file(path: str, limit: int, steps: Steps) -> bytes | None:
    """A log that somebody keeps; None where there is none.

    Raises:
        PlatformError: it is there and cannot be read.
        LimitError: it is longer than `limit` bytes.
    """
    return _find(path, limit, steps)


def _find(path: str, limit: int, steps: Steps) -> bytes | None:
    try:
        return _read(path, limit, steps)
    except PlatformError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


def _read(path: str, limit: int, steps: Steps) -> bytes:
    with _opened(path, os.O_RDONLY, 0, steps) as handle, steps.at(path, "read"):
        content = bytearray()
        while len(content) <= limit:
            chunk = os.read(handle, limit + 1 - len(content))
            if not chunk:
                return bytes(content)
            content += chunk
    raise LimitError(f"{path}: more than {limit} bytes")


@contextmanager
def _opened(path: str, flags: int, mode: int, steps: Steps) -> Iterator[int]:
    with steps.at(path, "open"):
        handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        yield handle
    finally:
        os.close(handle)
