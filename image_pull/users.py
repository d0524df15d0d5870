"""The numbers that an image's `User` stands for, looked up in its own root file system.

Source: docs/spec/image-pull.md, section 15; passwd(5), group(5).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guest.errors import InvalidInputError, PlatformError
from image_pull.runtime_spec import User
from image_pull.store.syscalls import open_in_root

MAX_FILE: Final = 4 * 1024 * 1024
"""Most bytes of a passwd or group file that are read."""

MAX_ID: Final = 2**32 - 2
PASSWD: Final = b"etc/passwd"
GROUP: Final = b"etc/group"


def user_of(rootfs: Path, text: str) -> User:
    """Resolve `user[:group]`, by name or number. Blocks.

    Args:
        rootfs: complete root file system of an image; hostile, links in it stay inside.
        text: the `User` of the image, not empty.

    Raises:
        InvalidInputError: the image names nobody that it has.
        PlatformError: its files cannot be read.
    """
    name, colon, group = text.partition(":")
    account = _account(_lines(rootfs, PASSWD), name)
    uid = _number(name)
    if account is not None:
        uid = _number(account[2])
    if uid is None:
        raise InvalidInputError(f"image has no user {name[:60]!r}")
    if colon and group:
        return User(uid=uid, gid=_group(rootfs, group))
    gid = (_number(account[3]) if account is not None else 0) or 0
    member = account[0] if account is not None else None
    return User(uid=uid, gid=gid, additional_gids=_memberships(rootfs, member, gid))


def _account(lines: Iterator[list[str]], name: str) -> list[str] | None:
    """The first line whose name fits, else whose number does."""
    by_number = None
    for fields in lines:
        if len(fields) < 4:
            continue
        if fields[0] == name:
            return fields
        if by_number is None and fields[2] == name:
            by_number = fields
    return by_number


def _group(rootfs: Path, group: str) -> int:
    number = _number(group)
    for fields in _lines(rootfs, GROUP):
        if len(fields) >= 3 and fields[0] == group:
            number = _number(fields[2])
            break
    if number is None:
        raise InvalidInputError(f"image has no group {group[:60]!r}")
    return number


def _memberships(rootfs: Path, member: str | None, gid: int) -> tuple[int, ...]:
    if member is None:
        return ()
    found = set()
    for fields in _lines(rootfs, GROUP):
        if len(fields) >= 4 and member in fields[3].split(","):
            number = _number(fields[2])
            if number is not None and number != gid:
                found.add(number)
    return tuple(sorted(found))


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > MAX_ID:
        return None
    return int(text)


def _lines(rootfs: Path, path: bytes) -> Iterator[list[str]]:
    for line in _read(rootfs, path).decode("utf-8", "replace").splitlines():
        if line and not line.startswith("#"):
            yield line.split(":")


def _read(rootfs: Path, path: bytes) -> bytes:
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise PlatformError(f"{path.decode()} of the image cannot be read") from error
    finally:
        os.close(root)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PlatformError(f"{path.decode()} of the image is no regular file")
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise PlatformError(f"{path.decode()} of the image is longer than {MAX_FILE} bytes")
    return content
