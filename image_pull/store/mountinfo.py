"""The kernel's list of what is mounted where. Sans-I/O.

Source: Linux proc(5), "/proc/pid/mountinfo".
"""

from typing import Final

MOUNTINFO: Final = "/proc/self/mountinfo"


def mount_points(mountinfo: bytes) -> frozenset[bytes]:
    """Where overlays are mounted, from the text of /proc/self/mountinfo."""
    return frozenset(path for path, kind in mounts(mountinfo) if kind == b"overlay")


def mounts(mountinfo: bytes) -> list[tuple[bytes, bytes]]:
    """Mount points and kinds of file systems, in the order in which they were mounted."""
    found = []
    for line in mountinfo.split(b"\n"):
        fields, _, rest = line.partition(b" - ")
        parts = fields.split(b" ")
        kind, space, _ = rest.partition(b" ")
        if len(parts) > 4 and space:
            found.append((unescape(parts[4]), kind))
    return found


def unescape(field: bytes) -> bytes:
    r"""Undo the octal escapes (`\040`) of mountinfo."""
    head, *rest = field.split(b"\\")
    parts = [head]
    for each in rest:
        digits = each[:3]
        if len(digits) == 3 and all(byte in b"01234567" for byte in digits):
            parts += [bytes([int(digits, 8) & 0xFF]), each[3:]]
        else:
            parts += [b"\\", each]
    return b"".join(parts)
