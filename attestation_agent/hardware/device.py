"""Device nodes and small kernel files, looked at without ever guessing.

Absent means ENOENT or ENOTDIR. Any other error is an error: a host must not be able to make a TEE
look absent by breaking its interface.

Source: docs/ARCHITECTURE.md, decision 9.
"""

import os
from typing import Final

from guest.errors import PlatformError

TDX_NODES: Final = ("/dev/tdx_guest", "/dev/tdx-guest", "/dev/tdx-attest")
"""The TDX guest device: its name in mainline kernels, then those of older stacks."""

SNP_MARKS: Final = ("/sys/devices/platform/sev-guest", "/dev/sev-guest")
"""What the driver of an SNP guest makes."""

KFD_NODES: Final = "/sys/devices/virtual/kfd/kfd/topology/nodes"
"""Accelerators and processors as the driver of Hygon's accelerators numbers them."""

NVIDIA_DRIVER: Final = "/sys/bus/pci/drivers/nvidia"
"""There while the driver is loaded; lists the GPUs that it has."""

MAX_TEXT_BYTES: Final = 4096
"""Longest kernel attribute that is read, in bytes."""


def exists(path: str) -> bool:
    """Whether the path names something.

    Raises:
        PlatformError: that cannot be told.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise PlatformError(f"{path} cannot be looked at") from error
    return True


def find_text(path: str) -> str | None:
    """The text of a kernel attribute, white space at its ends removed; None where there is none.

    Raises:
        PlatformError: it is there and cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_TEXT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PlatformError(f"{path} cannot be read") from error
    return content.decode("utf-8", "replace").strip()
