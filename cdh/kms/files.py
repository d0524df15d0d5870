"""Files that key management services find their credentials in. Reading blocks: use a thread.

Source: docs/spec/confidential-data-hub.md 3.3, 8.1 and 8.3.
"""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from guest.errors import DecodeError, InvalidInputError, NotFoundError, PlatformError
from guest.secret import Secret

MAX_FILE_LENGTH: Final = 256 * 1024
"""Most bytes of one file."""

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)

T = TypeVar("T")


def decode_file(content: Secret, what: str, decode: Callable[[bytes], T]) -> T:
    """What a file holds; its content is wiped.

    Args:
        content: of the file.
        what: names it in the error.
        decode: raises `DecodeError`.

    Raises:
        PlatformError: it is not as specified.
    """
    try:
        with content:
            return decode(content.reveal())
    except DecodeError as error:
        raise PlatformError(f"{what}: {error}") from error


class CredentialFiles:
    """The credentials of one provider.

    Args:
        folders: where to look, in this order; a file of the first that has it counts.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)

    def read(self, name: str) -> Secret:
        """The content of a file.

        Args:
            name: one component, made of verified ids only.

        Raises:
            NotFoundError: no folder has it.
            PlatformError: it cannot be read, is no regular file, or is longer than
                `MAX_FILE_LENGTH`.
        """
        assert "/" not in name
        for folder in self._folders:
            content = find_file(folder / name)
            if content is not None:
                return content
        raise NotFoundError(f"no credential file {name} in {', '.join(map(str, self._folders))}")


def find_file(path: Path) -> Secret | None:
    """The content of a regular file, or None where there is none.

    Raises:
        PlatformError: it cannot be read, is no regular file, or is longer than `MAX_FILE_LENGTH`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PlatformError(f"{path} is no regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_LENGTH + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise PlatformError(f"cannot read {path}") from error
    if len(content) > MAX_FILE_LENGTH:
        raise PlatformError(f"{path} has more than {MAX_FILE_LENGTH} bytes")
    return Secret(content)


def read_below(root: Path, path: str) -> Secret:
    """A file that a secret names by its path, which must lie below `root`, links followed.

    Args:
        root: what secrets may name files of.
        path: absolute, chosen by whoever sealed the secret.

    Raises:
        InvalidInputError: it is not below `root`.
        NotFoundError: there is no such file.
        PlatformError: it cannot be read, is no regular file, or is too long.
    """
    shown = f"{path[:200]!r}"
    if not path.startswith("/") or "\0" in path:
        raise InvalidInputError(f"path {shown} is not absolute")
    try:
        base = os.path.realpath(root)
        real = os.path.realpath(path)
    except (OSError, UnicodeEncodeError) as error:
        raise InvalidInputError(f"path {shown} cannot be resolved") from error
    if not real.startswith(f"{base}/"):
        raise InvalidInputError(f"path {shown} is outside {root}")
    content = find_file(Path(real))
    if content is None:
        raise NotFoundError(f"no file {shown}")
    return content
