"""The store as a whole: whose it is, of which boot and format, and what must go first.

Source: docs/ARCHITECTURE.md, decision 7.
"""

import contextlib
import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from guest.errors import DecodeError, PlatformError
from guest.prepared import prepared
from image_pull.layers.remove import remove_tree
from image_pull.store import syscalls
from image_pull.store.mountinfo import MOUNTINFO, mounts

log = logging.getLogger(__name__)

FORMAT: Final = 2
"""Raised with every change of what the directories below hold; formats are never migrated."""

HEADER: Final = "store.json"
LOCK: Final = "store.lock"
UNPACKED: Final = "unpacked"
STAGING: Final = "staging"
MOUNTS: Final = "mounts"
OWN_DIRECTORIES: Final = (UNPACKED, STAGING, MOUNTS)
STAGING_ATTEMPTS: Final = 20
STAGING_PAUSE: Final = 0.05
"""Seconds between attempts to remove what another process left."""
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `store.json`.

    Attributes:
        format: of the directories.
        boot_id: the kernel's, of the boot that they belong to.
    """

    format: int
    boot_id: str

    @classmethod
    def decode(cls, data: bytes) -> "Header":
        """Parse.

        Raises:
            DecodeError: not a header.
        """
        try:
            return msgspec.json.decode(data, type=prepared(cls))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError("store header is malformed") from error


def read_boot_id() -> str:
    """The kernel's id of this boot.

    Raises:
        PlatformError: it cannot be read.
    """
    try:
        return Path(BOOT_ID).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError("boot id of the kernel cannot be read") from error


class Store:
    """A work directory that this process alone uses, until `close`."""

    def __init__(self, root: Path, lock: int) -> None:
        """Use `Store.open`."""
        self.root = root
        self._lock = lock
        self._counter = 0
        self._guard = threading.Lock()

    @classmethod
    def open(cls, root: Path, boot_id: str) -> "Store":
        """Take the work directory, and delete what another boot, format or process left. Blocks.

        Raises:
            PlatformError: it cannot be used, or another process uses it.
        """
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(
                root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise PlatformError(f"work directory {root} cannot be used: {error}") from error
        try:
            _take(lock, root)
            _prepare(root, Header(format=FORMAT, boot_id=boot_id))
        except OSError as error:
            os.close(lock)
            raise PlatformError(f"store in {root} cannot be prepared: {error}") from error
        except PlatformError:
            os.close(lock)
            raise
        return cls(root.resolve(), lock)

    def fresh_name(self) -> str:
        """A name that no other staging directory or mount of this process has."""
        with self._guard:
            self._counter += 1
            return f"{os.getpid()}-{self._counter}"

    @property
    def unpacked(self) -> Path:
        """Verified layers."""
        return self.root / UNPACKED

    @property
    def staging(self) -> Path:
        """Layers under way."""
        return self.root / STAGING

    @property
    def mounts(self) -> Path:
        """Upper and work directories of mounted root file systems."""
        return self.root / MOUNTS

    def close(self) -> None:
        """Let another process use it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _take(lock: int, root: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PlatformError(f"work directory {root} is used by another process") from error


def _prepare(root: Path, header: Header) -> None:
    _remove_staging(root / STAGING)
    if _read_header(root) != header:
        leftovers = [name for name in OWN_DIRECTORIES if os.path.lexists(root / name)]
        if leftovers:
            log.info("store of another boot or format is deleted", extra={"work_dir": str(root)})
        for name in leftovers:
            remove_tree(root / name)
        temporary = root / f".{HEADER}.new"
        temporary.write_bytes(msgspec.json.encode(header))
        temporary.rename(root / HEADER)
    for name in OWN_DIRECTORIES:
        (root / name).mkdir(mode=0o700, exist_ok=True)


def _remove_staging(staging: Path) -> None:
    """Remove it; the workers of a process that was killed may still write for a moment."""
    root = os.fsencode(staging.resolve()) + b"/"
    for path, _ in reversed(mounts(Path(MOUNTINFO).read_bytes())):
        if path.startswith(root):  # a probe's, whose process was killed in between
            syscalls.unmount(path, detach=True)
    for _ in range(STAGING_ATTEMPTS):
        with contextlib.suppress(OSError):  # once more, and aloud at the end
            return remove_tree(staging)
        time.sleep(STAGING_PAUSE)
    remove_tree(staging)


def _read_header(root: Path) -> Header | None:
    try:
        return Header.decode((root / HEADER).read_bytes())
    except FileNotFoundError:
        return None
    except DecodeError:
        return None
