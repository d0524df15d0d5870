"""An advisory lock among the processes of this guest.

Source: docs/spec/attesters.md 7.2 (steps that share NV state).
"""

import errno
import fcntl
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline

FILE_MODE: Final = 0o600
PAUSE: Final = 0.05
"""Seconds between two attempts."""

TAKEN: Final = (errno.EAGAIN, errno.EACCES)
"""What `flock` says of a lock that somebody else has."""


class _Hold:
    """One taking of the lock; the descriptor is closed even if its waiter left meanwhile."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._handle: int | None = None
        self._is_over = False

    def keep(self, handle: int) -> None:
        """The lock is had."""
        with self._guard:
            if not self._is_over:
                self._handle = handle
                return
        os.close(handle)

    def release(self) -> None:
        """Nobody needs it any more."""
        with self._guard:
            self._is_over = True
            handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


class LockFile:
    """A file that processes lock one after the other."""

    def __init__(self, path: str) -> None:
        """Touch nothing; the file and its directory are made when first needed."""
        self._path = path
        self._thread = DeviceThread("lock file")

    @asynccontextmanager
    async def held(self, deadline: Deadline) -> AsyncIterator[None]:
        """Have the lock for the block.

        Raises:
            PlatformError: the file cannot be made or locked, or others have it for too long.
            DeadlineError: there is no time left.
        """
        hold = _Hold()
        try:
            await self._thread.run(lambda steps: self._take(hold, steps, deadline), deadline)
            yield
        finally:
            hold.release()

    def _take(self, hold: _Hold, steps: Steps, deadline: Deadline) -> None:
        directory = os.path.dirname(self._path)
        with steps.at(directory, "mkdir"):
            os.makedirs(directory, mode=0o755, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with steps.at(self._path, "open"):
            handle = os.open(self._path, flags, FILE_MODE)
        try:
            while not self._try(handle, steps):
                steps.pause(PAUSE, deadline)
        except BaseException:
            os.close(handle)
            raise
        hold.keep(handle)

    def _try(self, handle: int, steps: Steps) -> bool:
        with steps.at(self._path, "flock"):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in TAKEN:
                    return False
                raise
        return True
