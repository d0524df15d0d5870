"""Whether a directory's bytes are out of the host's reach: in memory, or encrypted in this boot.

Source: docs/ARCHITECTURE.md, decision 7; Linux "sysfs-block-dm"; cryptsetup UUID prefixes.
"""

import os
from pathlib import Path
from typing import Final

IN_MEMORY: Final = frozenset({b"tmpfs", b"ramfs"})
ENCRYPTED: Final = ("CRYPT-LUKS1-", "CRYPT-LUKS2-", "CRYPT-PLAIN-")
"""Starts of device-mapper UUIDs; the kernel forgets them all with the boot."""

MAX_STACK: Final = 8
"""Most device-mapper devices on top of each other that are looked through."""


def is_protected(directory: Path, mountinfo: bytes, block: Path = Path("/sys/dev/block")) -> bool:
    """Whether the directory lies in memory or on an encrypted device; doubt means no.

    Args:
        directory: exists.
        mountinfo: text of /proc/self/mountinfo.
        block: the kernel's directory of block devices by number.

    Raises:
        OSError: the directory cannot be looked at.
    """
    number = os.stat(directory).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in mountinfo.split(b"\n"):
        fields, _, rest = line.partition(b" - ")
        parts = fields.split(b" ")
        is_here = len(parts) > 2 and parts[2] == device.encode()
        if is_here and rest.partition(b" ")[0] in IN_MEMORY:
            return True
    return _is_encrypted(block / device, MAX_STACK)


def _is_encrypted(device: Path, depth: int) -> bool:
    try:
        uuid = (device / "dm" / "uuid").read_text("ascii", "replace")
        below = sorted((device / "slaves").iterdir())
    except OSError:
        return False
    if uuid.startswith(ENCRYPTED):
        return True
    return bool(below) and depth > 0 and all(_is_encrypted(each, depth - 1) for each in below)
