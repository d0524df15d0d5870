"""Credentials that are fetched and stored before CDH answers anybody.

Source: docs/spec/confidential-data-hub.md 3.3.
"""

import asyncio
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from cdh.config import Credential
from cdh.kms.base import InitialisationError, ResourceClient, parse_resource_uri
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    GuestError,
    InvalidInputError,
    PlatformError,
    UnavailableError,
)
from guest.resource_uri import ResourceUri
from guest.secret import Secret

RUNTIME_DIR: Final = Path("/run/confidential-containers/cdh")
"""What CDH itself writes lies below it."""

ALLOWED_FOLDERS: Final = ("kbs", "sealed-secret", "kms-credential")
"""Folders of `RUNTIME_DIR` that credentials may be put below."""

OCICRYPT_FILE: Final = "ocicrypt_config.json"
"""Names the hub to programs that look for a key provider; lies beside the folders."""

MAX_NAME_BYTES: Final = 255
"""Bytes of one component of a path."""

RETRY_SECONDS: Final = 0.2
"""Pause between attempts while the attestation agent or the KBS cannot be reached."""


class Placement(msgspec.Struct, frozen=True):
    """One credential with its place.

    Attributes:
        uri: which resource.
        parts: components of the path below the runtime directory, at least two.
    """

    uri: ResourceUri
    parts: tuple[str, ...]


def plan(credentials: Sequence[Credential], runtime_dir: Path) -> tuple[Placement, ...]:
    """Check every entry before anything is fetched; of two with one path the later one counts.

    Raises:
        ConfigError: `init Hub failed: illegal path to put credential : <path>`, or a URI that is
            none.
    """
    placements: dict[tuple[str, ...], Placement] = {}
    for entry in credentials:
        parts = _parts(entry.path, runtime_dir)
        try:
            uri = parse_resource_uri(entry.resource_uri)
        except InvalidInputError as error:
            raise ConfigError(f"init Hub failed: {error}") from error
        placements[parts] = Placement(uri, parts)
    return tuple(placements.values())


async def fetch_and_store(
    placements: Sequence[Placement],
    resources: ResourceClient,
    runtime_dir: Path,
    deadline: Deadline,
) -> None:
    """Fetch all side by side, then store them; the first failure ends the others.

    Raises:
        ConfigError: `init Hub failed: kbs client get resource failed: ...` (or `kbs client
            creation failed`); nothing was stored.
        PlatformError: a file cannot be written, or something on its way is a symbolic link; files
            that were stored before are whole.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            fetching = [
                tasks.create_task(_fetch(one.uri, resources, deadline), name=f"credential-{number}")
                for number, one in enumerate(placements)
            ]
    except BaseExceptionGroup as group:
        first = next((e for e in group.exceptions if isinstance(e, GuestError)), None)
        if first is None:
            raise
        raise first from first.__cause__
    for placement, fetched in zip(placements, fetching, strict=True):
        with fetched.result() as content:
            write_file(runtime_dir, placement.parts, content)


async def _fetch(uri: ResourceUri, resources: ResourceClient, deadline: Deadline) -> Secret:
    while True:
        try:
            return await resources.fetch(uri, deadline)
        except InitialisationError as error:
            failure: GuestError = error
            text = "kbs client creation failed"
            retry = isinstance(error.__cause__, UnavailableError)
        except GuestError as error:
            failure = error
            text = "kbs client get resource failed"
            retry = isinstance(error, UnavailableError)
        if not retry or deadline.remaining() <= RETRY_SECONDS:
            raise ConfigError(f"init Hub failed: {text}: {uri}: {failure}") from failure
        await asyncio.sleep(RETRY_SECONDS)


def _parts(path: str, runtime_dir: Path) -> tuple[str, ...]:
    illegal = ConfigError(f"init Hub failed: illegal path to put credential : {path[:300]}")
    prefix = f"{runtime_dir}/"
    if not path.startswith(prefix):
        raise illegal
    parts = tuple(path[len(prefix) :].split("/"))
    if len(parts) < 2 or parts[0] not in ALLOWED_FOLDERS:
        raise illegal
    for part in parts:
        if part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > MAX_NAME_BYTES:
            raise illegal
    return parts


def write_file(runtime_dir: Path, parts: Sequence[str], content: Secret) -> None:
    """Put `content` at `runtime_dir/parts...`: mode 0600, directories 0700, at once or not at all.

    `runtime_dir` is trusted and may be reached through symbolic links; nothing below it may be.

    Raises:
        PlatformError: it cannot be written; a component is a symbolic link, no directory, or one
            that others may write to.
    """
    name = parts[-1]
    shown = "/".join((str(runtime_dir), *parts))
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _directory(runtime_dir, parts[:-1]) as folder:
            _replace(folder, name, content)
    except OSError as error:
        raise PlatformError(f"cannot write {shown[:300]}: {error.strerror}") from error


@contextmanager
def _directory(base: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of a directory below `base`, made where missing, never through a link."""
    current = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with suppress(FileExistsError):  # it was there before
                os.mkdir(part, 0o700, dir_fd=current)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=current)
            os.close(current)
            current = inner
            _check_private(current, part)
        yield current
    finally:
        os.close(current)


def _check_private(folder: int, name: str) -> None:
    status = os.fstat(folder)
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid not in (0, os.geteuid()) or writable:
        raise PlatformError(f"directory {name!r} for credentials can be changed by others")


def _replace(folder: int, name: str, content: Secret) -> None:
    temporary = f".{os.getpid()}-new"
    with suppress(FileNotFoundError):  # nothing was left by an earlier process
        os.unlink(temporary, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            os.fchmod(file, 0o600)
            stream.write(content.reveal())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(temporary, dir_fd=folder)  # part of a secret must not stay
        raise
