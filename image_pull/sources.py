"""Where policies, credentials and rules come from: `kbs://` through CDH, files by ourselves.

Source: docs/spec/image-pull.md, section 2.4.
"""

import asyncio
import os
import stat
from typing import Final, Protocol

from guest.deadline import Deadline
from guest.errors import InvalidInputError, LimitError, PlatformError, UnsupportedError
from guest.secret import Secret

MAX_RESOURCE: Final = 4 * 1024 * 1024
"""Most bytes of a file or resource."""


class ResourceFetcher(Protocol):
    """Whoever answers for `kbs://` and `kbs+<plugin>://`."""

    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        """The resource's bytes.

        Raises:
            GuestError: it cannot be had.
        """
        ...


class Sources:
    """Resources by URI; nothing is kept, on disk least of all."""

    def __init__(self, resources: ResourceFetcher) -> None:
        """Ask `resources` for what the KBS holds."""
        self._resources = resources

    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        """The bytes behind a URI or an absolute path.

        Raises:
            InvalidInputError: a relative path.
            UnsupportedError: another scheme.
            PlatformError, LimitError: the file cannot be read, or is too long.
            GuestError: whatever the KBS side says.
        """
        scheme, separator, path = uri.partition("://")
        if not separator:
            scheme, path = "file", uri
        if scheme == "file":
            if not path.startswith("/"):
                raise InvalidInputError(f"resource path {path[:200]!r} is not absolute")
            return await asyncio.to_thread(read_file, path)
        if scheme == "kbs" or scheme.startswith("kbs+"):
            async with deadline.limit(f"resource {uri}"):
                return await self._resources.fetch(uri, deadline)
        raise UnsupportedError(f"Resource URI scheme `{scheme[:40]}` not supported")


def read_file(path: str) -> Secret:
    """A regular file's bytes.

    Raises:
        PlatformError: missing, unreadable, or no regular file.
        LimitError: too long.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PlatformError(f"{path} is not a regular file")
            data = file.read(MAX_RESOURCE + 1)
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_RESOURCE:
        raise LimitError(f"{path} is longer than {MAX_RESOURCE} bytes")
    return Secret(data)
