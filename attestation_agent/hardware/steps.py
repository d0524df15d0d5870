"""Where a piece of work on a device is, so that an error or a silence can be named."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from guest.deadline import Deadline
from guest.errors import DeadlineError, PlatformError


def platform_error(path: str, step: str, error: OSError) -> PlatformError:
    """A failure of the kernel that names path, step and errno."""
    late = errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO
    number = error.errno or late
    name = errno.errorcode.get(number, str(number))
    return PlatformError(f"{path}: {step}: {name} ({os.strerror(number)})")


class Steps:
    """The progress of one piece of work; made for each, used by one thread at a time.

    Attributes:
        current: path and step that are under way, empty before the first.
        given_up: set when nobody waits for the outcome any more.
    """

    def __init__(self) -> None:
        """Nothing was done yet."""
        self.current = ""
        self.given_up = threading.Event()

    @contextmanager
    def at(self, path: str, step: str) -> Iterator[None]:
        """Name what the block does.

        Raises:
            PlatformError: the block's `OSError`, with path, step and errno.
        """
        self.current = f"{path}: {step}"
        try:
            yield
        except OSError as error:
            raise platform_error(path, step, error) from error

    def pause(self, seconds: float, deadline: Deadline) -> None:
        """Wait before another attempt.

        Raises:
            DeadlineError: nobody waits any more, or there is no time for it.
        """
        if deadline.remaining() <= seconds or self.given_up.wait(seconds):
            raise DeadlineError(f"no time left for another attempt at {self.current}")
