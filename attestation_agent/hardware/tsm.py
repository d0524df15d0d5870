"""The configfs-tsm report interface: which provider the kernel has.

Source: docs/spec/attesters.md 1.3.
"""

import errno
import itertools
import os
from typing import Final, Protocol

from attestation_agent.hardware import device
from guest.errors import PlatformError

REPORTS: Final = "/sys/kernel/config/tsm/report"

NO_PROVIDER: Final = errno.ENXIO
"""What `mkdir` says where no provider module is loaded."""

NAME_TAKEN: Final = (errno.EEXIST, errno.EBUSY)
"""What `mkdir` says of a name that another process uses."""

MAX_NAMES: Final = 100


class Directories(Protocol):
    """The two calls that the interface is made of; a test stands in for the kernel here."""

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        """As `os.mkdir`."""
        ...

    def rmdir(self, path: str) -> None:
        """As `os.rmdir`."""
        ...


class KernelDirectories:
    """The real ones."""

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        """As `os.mkdir`."""
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        """As `os.rmdir`."""
        os.rmdir(path)


KERNEL: Final = KernelDirectories()


def find_provider(root: str, directories: Directories = KERNEL) -> str | None:
    """The name of the kernel's report provider; None without the interface or a provider.

    Makes one report instance and removes it again.

    Args:
        root: `REPORTS`, or the same in another tree.
        directories: makes and removes instances.

    Raises:
        PlatformError: the interface is there and does not answer.
    """
    if not device.exists(root):
        return None
    instance = _make_instance(root, directories)
    if instance is None:
        return None
    try:
        provider = device.find_text(os.path.join(instance, "provider"))
    finally:
        try:
            directories.rmdir(instance)
        except OSError as error:
            raise PlatformError(f"{instance} cannot be removed") from error
    if provider is None:
        raise PlatformError(f"{instance} names no provider")
    return provider


def _make_instance(root: str, directories: Directories) -> str | None:
    for number in itertools.count():
        instance = os.path.join(root, f"aa-{os.getpid()}-{number}")
        try:
            directories.mkdir(instance, 0o700)
        except OSError as error:
            if error.errno == NO_PROVIDER:
                return None
            if error.errno in NAME_TAKEN and number < MAX_NAMES:
                continue
            raise PlatformError(f"{instance} cannot be made") from error
        return instance
    raise AssertionError("unreachable")
