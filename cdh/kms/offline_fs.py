"""Resources from files of the guest: `offline_fs_kbc`.

Only as good as the file system they lie on: it must be confidential and protected by integrity.

Source: docs/spec/confidential-data-hub.md 6.3.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from cdh.kms.base import InitialisationError
from guest import jsonio, wire
from guest.deadline import Deadline
from guest.errors import DecodeError, NotFoundError, PlatformError
from guest.resource_uri import ResourceUri
from guest.secret import Secret

log = logging.getLogger(__name__)

NAME: Final = "offline_fs_kbc"

STANDARD_FILES: Final = (
    Path("/etc/aa-offline_fs_kbc-keys.json"),
    Path("/etc/aa-offline_fs_kbc-resources.json"),
)
"""Read first, in this order."""

MAX_FILE_LENGTH: Final = 16 * 1024 * 1024
"""Most bytes of one file."""


class _Stamp(msgspec.Struct, frozen=True):
    """What tells one content of a file from the next."""

    mtime_ns: int
    size: int
    inode: int
    device: int


_State: TypeAlias = tuple[_Stamp | None, ...]


class OfflineFiles:
    """A `ResourceClient` over JSON files that map resource paths to base64.

    A file's content is kept until its modification time, size or inode changes; a later file's
    definition replaces an earlier one's.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._files = files
        self._state: _State | None = None
        self._resources: Mapping[str, Secret] = {}

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """A copy of the resource under the URI's path; host, query and plugin are ignored.

        Raises:
            InitialisationError: a file is there but is not as specified.
            NotFoundError: no file has the path.
            DeadlineError: reading the files took too long.
        """
        state = tuple(_stamp(path) for path in self._files)
        if state != self._state:
            async with deadline.limit("the offline resource files"):
                self._resources = await asyncio.to_thread(self._load, state)
            self._state = state
        resource = self._resources.get(uri.path)
        if resource is None:
            raise NotFoundError(f"offline-fs-kbc: resource not found {uri.path}")
        return Secret(resource.reveal())

    async def run(self, stop: asyncio.Event) -> None:
        """Nothing to do in the background."""
        await stop.wait()

    async def close(self) -> None:
        """Forget what was read; copies that others hold stay theirs."""
        self._state = None
        self._resources = {}

    def _load(self, state: _State) -> Mapping[str, Secret]:
        resources: dict[str, Secret] = {}
        for path, stamp in zip(self._files, state, strict=True):
            if stamp is None:
                log.warning("offline resource file is missing", extra={"path": str(path)})
                continue
            try:
                content = _read(path)
            except PlatformError as error:
                log.warning(
                    "offline resource file is unreadable",
                    extra={"path": str(path), "cause": str(error)},
                )
                continue
            found = _decode(path, content)
            for name in sorted(resources.keys() & found.keys()):
                log.warning(
                    "offline resource is defined again", extra={"path": str(path), "uri": name}
                )
            resources.update(found)
        return resources


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _Stamp(status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PlatformError(f"{path} is not a regular file")
            content = file.read(MAX_FILE_LENGTH + 1)
    except OSError as error:
        raise PlatformError(f"cannot read {path}") from error
    if len(content) > MAX_FILE_LENGTH:
        raise InitialisationError(
            f"offline-fs-kbc: illegal resource file {path}: longer than {MAX_FILE_LENGTH} bytes"
        )
    return content


def _decode(path: Path, content: bytes) -> dict[str, Secret]:
    try:
        document = jsonio.decode(content, dict[str, str], max_depth=1, max_bytes=MAX_FILE_LENGTH)
    except DecodeError as error:
        raise InitialisationError(
            f"offline-fs-kbc: illegal resource file {path}: not an object of strings"
        ) from error
    resources = {}
    for name, text in document.items():
        try:
            resources[name] = Secret(wire.decode_base64(text))
        except DecodeError as error:
            raise InitialisationError(
                f"offline-fs-kbc: decode value from file {path} failed: {name[:100]!r}"
            ) from error
    return resources
