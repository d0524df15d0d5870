"""The keys of volumes: sealed secrets, resources, files below directories that were set free.

Source: docs/spec/confidential-data-hub.md 10.2 and 10.6.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cdh.kms.base import ResourceClient, parse_resource_uri
from cdh.secrets.unseal import SecretUnsealer
from cdh.storage.blocking import run_blocking
from guest.deadline import Deadline
from guest.errors import DeniedError, InvalidInputError, LimitError
from guest.secret import Secret

SEALED: Final = "sealed."
FILE: Final = "file://"
RESOURCE: Final = ("kbs:", "kbs+")

WRONG_SCHEME: Final = "The scheme of the key uri should be `kbs`, `file` or `sealed`"

MAX_KEY_LENGTH: Final = 4 * 1024 * 1024
"""Most bytes of a key file."""

MAX_NAME_LENGTH: Final = 64 * 1024
"""Most characters of what names a key."""


class VolumeKeys:
    """Finds keys.

    Args:
        resources: for `kbs://`.
        unsealer: for `sealed.`.
        folders: `file://` leads to files below these only.
    """

    def __init__(
        self, resources: ResourceClient, unsealer: SecretUnsealer, folders: Sequence[str]
    ) -> None:
        self._resources = resources
        self._unsealer = unsealer
        self._folders = tuple(folders)

    async def fetch(self, name: str, deadline: Deadline) -> Secret:
        """See `KeySource.fetch`."""
        if len(name) > MAX_NAME_LENGTH:
            raise LimitError("what names the key is too long")
        key = await self._fetch(name, deadline)
        if not len(key):
            raise InvalidInputError("the key of the volume is empty")
        return key

    async def _fetch(self, name: str, deadline: Deadline) -> Secret:
        if name.startswith(SEALED):
            return await self._unsealer.unseal(_encoded(name), deadline)
        if name.strip().lower().startswith(RESOURCE):
            return await self._resources.fetch(parse_resource_uri(name), deadline)
        if name.startswith(FILE):
            path = name.removeprefix(FILE)
            return await run_blocking(lambda: self._read(path), "reading of a key file", deadline)
        raise InvalidInputError(WRONG_SCHEME)

    async def unseal(self, text: str, deadline: Deadline) -> Secret:
        """See `KeySource.unseal`."""
        if text.startswith(SEALED):
            return await self._unsealer.unseal(_encoded(text), deadline)
        return Secret(_encoded(text))

    def _read(self, text: str) -> Secret:
        if "\0" in text:
            raise InvalidInputError("the path of the key file has a NUL")
        path = Path(os.path.realpath(text))
        allowed = [Path(os.path.realpath(folder)) for folder in self._folders]
        if not any(path.is_relative_to(folder) for folder in allowed):
            raise DeniedError("the key file lies in none of the directories for key files")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(path, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise InvalidInputError("the key file is no regular file")
                content = file.read(MAX_KEY_LENGTH + 1)
        except (OSError, ValueError) as error:
            raise InvalidInputError("the key file cannot be read") from error
        if len(content) > MAX_KEY_LENGTH:
            raise LimitError(f"the key file has more than {MAX_KEY_LENGTH} bytes")
        return Secret(content)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("what names the key is not UTF-8") from error
