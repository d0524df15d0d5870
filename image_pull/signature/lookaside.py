"""Fetches simple signing's signatures from a directory or a web server.

Source: docs/spec/image-pull.md 9.5; containers-signature(5), "Lookaside".
"""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import DecodeError, LimitError, NotFoundError, PeerError, PlatformError
from image_pull.reference import ImageReference
from image_pull.registry.transport import Transport
from image_pull.signature.sigstore_config import MAX_CONFIG, SigstoreConfig
from image_pull.sources import read_file

MAX_SIGNATURES: Final = 128
"""Most signatures of one digest."""

MAX_SIGNATURE: Final = 1024 * 1024
"""Most bytes of one."""

MAX_TOTAL: Final = 16 * 1024 * 1024
"""Most bytes of all signatures of one digest."""

FURTHER: Final = Path("image-security/simple_signing/sigstore_config")
"""Below the work directory: files that are merged with the configuration."""

MAX_FILES: Final = 64


class Lookaside:
    """Signatures beside the registry."""

    def __init__(self, config: SigstoreConfig, transport: Callable[[], Transport]) -> None:
        """Look where `config` says; `transport` is asked for when something is on the web."""
        self._config = config
        self._transport = transport

    async def find(
        self, reference: ImageReference, digest: Digest, deadline: Deadline
    ) -> tuple[bytes, ...]:
        """All signatures for a digest of an image, in order, none if there are none.

        Raises:
            NotFoundError: no address is configured for the image.
            PlatformError: the directory or a file in it cannot be read.
            PeerError, UnavailableError, DeadlineError: the server does not give them.
            LimitError: too many, or too long.
        """
        base = self._config.base_of(reference)
        if base is None:
            raise NotFoundError(f"no lookaside address is configured for {reference.name}")
        folder = f"{base}/{reference.repository}@{digest.algorithm.value}={digest.hex}"
        if folder.startswith("file://"):
            return await asyncio.to_thread(_read_folder, folder.removeprefix("file://"))
        return await self._download(folder, deadline)

    async def _download(self, folder: str, deadline: Deadline) -> tuple[bytes, ...]:
        found: list[bytes] = []
        for number in range(1, MAX_SIGNATURES + 1):
            url = f"{folder}/signature-{number}"
            response = await self._transport().get(
                url, authorization=None, deadline=deadline, max_body=MAX_SIGNATURE
            )
            if response.status == 404:
                return tuple(found)
            if response.status != 200:
                raise PeerError(f"lookaside server answers status {response.status} for {url}")
            _keep(found, response.body)
        return tuple(found)


def _keep(found: list[bytes], signature: bytes) -> None:
    found.append(signature)
    if len(found) > MAX_SIGNATURES or sum(map(len, found)) > MAX_TOTAL:
        raise LimitError(f"image has more than {MAX_SIGNATURES} signatures, or too long ones")


def _read_folder(path: str) -> tuple[bytes, ...]:
    """Every file of a directory that is not a directory; none if the directory is not there."""
    found: list[bytes] = []
    for name in _names(path, MAX_SIGNATURES):
        full = os.path.join(path, name)
        if _is_directory(full):
            continue
        data = read_file(full).reveal()
        if len(data) > MAX_SIGNATURE:
            raise LimitError(f"signature {full} has {len(data)} bytes")
        _keep(found, data)
    return tuple(found)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror}") from error


def _names(path: str, most: int) -> list[str]:
    """Names in a directory, `signature-2` before `signature-10`."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for _, entry in zip(range(most + 1), entries, strict=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror}") from error
    if len(names) > most:
        raise LimitError(f"{path} holds more than {most} files")
    return sorted(names, key=lambda name: (len(name), name))


def further_configs(work_dir: Path) -> tuple[SigstoreConfig, ...]:
    """Files that are merged with the configured one; blocks.

    Raises:
        DecodeError: one of them is malformed.
        PlatformError, LimitError: one cannot be read.
    """
    folder = work_dir / FURTHER
    found = []
    for name in _names(str(folder), MAX_FILES):
        if name.endswith(".yaml"):
            data = read_file(str(folder / name)).reveal()
            if len(data) > MAX_CONFIG:
                raise DecodeError(f"{name} has {len(data)} bytes, at most {MAX_CONFIG}")
            found.append(SigstoreConfig.parse(data))
    return tuple(found)
