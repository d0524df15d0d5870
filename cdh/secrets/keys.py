"""Where the key of a sealed secret's signature is found.

Source: docs/spec/confidential-data-hub.md 7.4.
"""

import asyncio
import os
import stat
from pathlib import Path
from typing import Final

from cdh.kms.base import ResourceClient, parse_resource_uri
from cdh.secrets.sealed import MAX_KEY_LENGTH
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError, NotFoundError, PlatformError
from guest.resource_uri import ResourceUri
from guest.secret import Secret

FOLDER: Final = "sealed-secret"
"""Below CDH's runtime directory: the keys whose `kid` is a file name."""

_NO_KEY: Final = "KID is invalid. Must be a KBS URI or a credential path."
_OUTSIDE: Final = "Invalid KID Key Path"


class VerificationKeys:
    """Finds verification keys: resources, and files that were provisioned.

    Args:
        resources: for a `kid` that is a resource URI.
        directory: for any other; need not exist before it is asked for.
    """

    def __init__(self, resources: ResourceClient, directory: Path) -> None:
        self._resources = resources
        self._directory = directory

    async def find(self, kid: str, deadline: Deadline) -> Secret:
        """The JWK's JSON, unchecked; it may carry a private part.

        Raises:
            InvalidInputError: `kid` is no URI, and no file name below the directory.
            NotFoundError: there is no such file.
            GuestError: as the source of resources says.
        """
        try:
            ResourceUri.parse(kid)
        except DecodeError:
            async with deadline.limit("the verification key"):
                return await asyncio.to_thread(_read, self._directory, kid)
        return await self._resources.fetch(parse_resource_uri(kid), deadline)


def _read(directory: Path, kid: str) -> Secret:
    """A regular file whose path, with every link followed, lies below `directory`."""
    shown = f"key {kid[:100]!r}"
    if not kid or "\0" in kid:
        raise InvalidInputError(f"{_OUTSIDE}: {shown}")
    try:
        base = os.path.realpath(directory, strict=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInputError(f"{_NO_KEY}: no directory {directory}") from error
    except OSError as error:
        raise PlatformError(f"cannot resolve {directory}") from error
    try:
        path = os.path.realpath(os.path.join(base, kid), strict=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{_OUTSIDE}: no {shown} in {directory}") from error
    except (OSError, UnicodeEncodeError) as error:
        raise InvalidInputError(f"{_OUTSIDE}: {shown}") from error
    if not path.startswith(f"{base}/"):
        raise InvalidInputError(f"{_OUTSIDE}: {shown} is outside {directory}")
    return _read_regular(path, shown)


def _read_regular(path: str, shown: str) -> Secret:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise PlatformError(f"cannot read {shown}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInputError(f"{_OUTSIDE}: {shown} is no regular file")
        content = os.read(descriptor, MAX_KEY_LENGTH + 1)
    except OSError as error:
        raise PlatformError(f"cannot read {shown}") from error
    finally:
        os.close(descriptor)
    if len(content) > MAX_KEY_LENGTH:
        raise InvalidInputError(f"{shown} is longer than {MAX_KEY_LENGTH} bytes")
    return Secret(content)
