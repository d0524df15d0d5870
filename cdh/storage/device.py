"""Block devices: which one is meant, whether it is free, what is on it.

Source: docs/spec/confidential-data-hub.md 10.2 and 10.3; docs/adr (secure mount).
"""

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, Final

from cdh.storage.base import StorageSite
from cdh.storage.blocking import run_blocking
from cdh.storage.luks2_header import (
    BINARY_LENGTH,
    MAX_HEADER_LENGTH,
    MEBIBYTE,
    Luks2Header,
    decode_copy_length,
)
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, InvalidInputError, PlatformError

MAX_UEVENT_LENGTH: Final = 4096
NOTHING_FOUND: Final = 2
"""Exit status of `blkid -p` when it knows nothing on the device, or could not open it; so the
device is opened and read here too."""

_DEVNAME: Final = re.compile(
    r"^DEVNAME=([A-Za-z0-9_!:.+-]+(?:/[A-Za-z0-9_!:.+-]+)*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Device:
    """A block device.

    Attributes:
        path: of its node, as given or as the kernel names it.
        numbers: major and minor; 0 and 0 for a file.
        identity: the same for all names of one device.
    """

    path: str
    numbers: tuple[int, int]
    identity: tuple[int, int, int]

    def verify_free(self, site: StorageSite) -> None:
        """Require a device that carries no mapping and is not mounted. Blocks a little.

        `cryptsetup luksFormat` with a detached header does not look.

        Raises:
            PlatformError: it is in use.
            OSError: that cannot be told.
        """
        major, minor = self.numbers
        folder = site.sysfs / "dev" / "block" / f"{major}:{minor}" / "holders"
        with suppress(FileNotFoundError):  # a partition of an old kernel, or a file
            holders = sorted(os.listdir(folder))
            if holders:
                text = f"device {self.path} is in use by {', '.join(holders)[:100]}"
                raise PlatformError(text)
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | self._exclusively()))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise PlatformError(f"device {self.path} is in use") from error
            raise

    def open_to_write(self) -> RawIOBase:
        """The device, which is nobody else's meanwhile; the caller closes it.

        Raises:
            OSError: it is in use, or cannot be opened.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | self._exclusively()
        return open(os.open(self.path, flags), "r+b", buffering=0)

    def _exclusively(self) -> int:
        """What has open(2) refuse a block device that is in use; means nothing for a file."""
        return os.O_EXCL if self.numbers != (0, 0) else 0


def find_device(site: StorageSite, numbers: tuple[int, int] | None, path: str | None) -> Device:
    """Look a device up; `numbers` rule over `path`. Blocks a little.

    Raises:
        InvalidInputError: there is no such device, or it is none.
    """
    if numbers is not None:
        path = _node_of(site, numbers)
    assert path is not None
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"there is no device {path}") from error
    if stat.S_ISBLK(status.st_mode):
        found = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if numbers not in (None, found):
            raise InvalidInputError(f"device {path} has other numbers than were asked for")
        return Device(path, found, (0, *found))
    if site.accept_files and stat.S_ISREG(status.st_mode):
        return Device(path, (0, 0), (1, status.st_dev, status.st_ino))
    raise InvalidInputError(f"{path} is no block device")


def _node_of(site: StorageSite, numbers: tuple[int, int]) -> str:
    text = f"{numbers[0]}:{numbers[1]}"
    try:
        with (site.sysfs / "dev" / "block" / text / "uevent").open("rb") as file:
            content = file.read(MAX_UEVENT_LENGTH).decode("ascii", "replace")
    except OSError as error:
        raise InvalidInputError(f"there is no block device {text}") from error
    match = _DEVNAME.search(content)
    if match is None or {".", ".."} & set(match[1].split("/")):
        raise InvalidInputError(f"block device {text} has no name")
    return str(site.dev / match[1])


async def verify_blank(site: StorageSite, device: Device, deadline: Deadline) -> None:
    """Require a device that nobody can have put anything on.

    Raises:
        InvalidInputError: `blkid` knows something on it, or its first or last MiB is not zero.
        PlatformError: that cannot be told.
    """
    done = await site.run("blkid", "-p", device.path, deadline=deadline)
    if done.status == 0:
        raise InvalidInputError(
            f"{device.path} is not empty: blkid finds something on it; option force initialises it"
        )
    if done.status != NOTHING_FOUND or done.stderr:
        done.verify_success()
    what = f"reading of {device.path}"
    if not await run_blocking(lambda: _are_ends_zero(device.path), what, deadline):
        raise InvalidInputError(
            f"{device.path} is not empty: its first or last MiB is not zero; "
            "option force initialises it"
        )


def _are_ends_zero(path: str) -> bool:
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        for start in (0, max(0, size - MEBIBYTE)):
            file.seek(start)
            wanted = min(MEBIBYTE, size - start)
            while wanted > 0:
                block = file.read(wanted)
                if not block or block.strip(b"\0"):
                    return False
                wanted -= len(block)
        return True


def wipe(device: Device) -> None:
    """Zero the place of a header, and the last MiB: what a failed initialisation leaves. Blocks.

    Raises:
        OSError: it is in use, or cannot be written.
    """
    with device.open_to_write() as file:
        size = file.seek(0, os.SEEK_END)
        zeros = bytes(MEBIBYTE)
        places = [*range(0, min(size, MAX_HEADER_LENGTH // 2), MEBIBYTE), max(0, size - MEBIBYTE)]
        for place in places:
            file.seek(place)
            file.write(zeros[: size - place])
        os.fsync(file.fileno())


def copy_header(device: Device, target: Path) -> None:
    """Put the LUKS2 header of a device into a new file, so that it cannot change any more. Blocks.

    Raises:
        IntegrityError: there is none, or it is damaged.
        OSError: it cannot be read or written.
    """
    try:
        with open(device.path, "rb", buffering=0) as source:
            _copy(source.fileno(), target)
    except DecodeError as error:
        raise IntegrityError(f"{device.path}: {error}") from error


def _copy(source: int, target: Path) -> None:
    data = _read(source, 2 * decode_copy_length(_read(source, BINARY_LENGTH, 0)), 0)
    length = Luks2Header.decode(data).length
    if length > MAX_HEADER_LENGTH:
        raise DecodeError(f"the LUKS2 header has {length} bytes")
    with create(target) as file:
        file.write(data)
        for place in range(len(data), length, MEBIBYTE):
            block = _read(source, min(MEBIBYTE, length - place), place)
            if block.strip(b"\0"):
                file.seek(place)
                file.write(block)
        file.truncate(length)


def _read(descriptor: int, length: int, place: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        block = os.pread(descriptor, length - len(data), place + len(data))
        if not block:
            raise DecodeError("the device ends inside of its header")
        data += block
    return bytes(data)


def create(path: Path) -> BinaryIO:
    """A new file that only this user reads; the caller closes it. Blocks a little.

    Raises:
        OSError: it exists, or cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o600), "r+b")
