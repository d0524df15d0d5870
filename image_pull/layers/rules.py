"""What an entry's name, attributes and numbers may be, and what whiteout names mean. Sans-I/O.

Source: docs/spec/image-pull.md §12.3; OCI image-spec, "Image Layer Filesystem Changeset".
"""

from enum import Enum, auto
from typing import Final

from guest.errors import DecodeError
from image_pull.layers.header import Entry, Kind
from image_pull.layers.record import MAX_COMPONENT, MAX_DEPTH, MAX_PATH

MAX_LINKS: Final = 40
"""Most symbolic links followed while one name is resolved, as in the kernel."""

MAX_XATTR: Final = 64 * 1024
"""Most bytes of one attribute's value; the kernel takes no more."""

MAX_TIME: Final = ((1 << 34) - 1) * 1_000_000_000
"""Latest time set on a file, nanoseconds since the epoch: the end of ext4's range."""

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
META: Final = b".wh..wh."

SKIPPED_XATTRS: Final = frozenset((b"security.selinux", b"security.ima", b"security.evm"))
SKIPPED_NAMESPACES: Final = (b"trusted.", b"user.overlay.")


class Whiteout(Enum):
    """What a name that starts with `.wh.` asks for."""

    HIDE = auto()
    """Hide what lower layers have under the rest of the name."""
    OPAQUE = auto()
    """Hide all that lower layers have in this directory."""
    IGNORED = auto()
    """Another union file system's own bookkeeping."""


def clean_name(name: bytes) -> list[bytes]:
    """The components of an entry's or link's name, cleaned against the root.

    A leading slash, `.` and empty components mean nothing, `..` goes up and stops at the root.

    Raises:
        DecodeError: a NUL, a component, the path or the depth too long.
    """
    if len(name) > MAX_PATH or b"\0" in name:
        raise DecodeError(f"Illegal entry name in the layer tar: {printable(name)}")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            if len(part) > MAX_COMPONENT:
                raise DecodeError(f"Illegal entry name in the layer tar: {printable(name)}")
            parts.append(part)
    if len(parts) > MAX_DEPTH:
        raise DecodeError(f"Illegal entry name in the layer tar: {printable(name)}")
    return parts


def find_whiteout(name: bytes) -> Whiteout | None:
    """What the last component `name` means, if it is a whiteout.

    Raises:
        DecodeError: a whiteout of nothing, of `.` or of `..`.
    """
    if not name.startswith(WHITEOUT):
        return None
    if name == OPAQUE:
        return Whiteout.OPAQUE
    if name.startswith(META):
        return Whiteout.IGNORED
    if name[len(WHITEOUT) :] in (b"", b".", b".."):
        raise DecodeError(f"Illegal entry name in the layer tar: {printable(name)}")
    return Whiteout.HIDE


def is_settable_xattr(name: bytes) -> bool:
    """Whether an image may set this attribute: never one that overlayfs or the host acts on."""
    if not name or b"\0" in name or len(name) > MAX_COMPONENT:
        return False
    return name not in SKIPPED_XATTRS and not name.startswith(SKIPPED_NAMESPACES)


def verify_xattrs(entry: Entry) -> None:
    """Refuse a value that no file system could keep; a lost attribute would be worse.

    Raises:
        DecodeError: a value longer than `MAX_XATTR`.
    """
    for name, value in entry.xattrs.items():
        if len(value) > MAX_XATTR:
            raise DecodeError(
                f"attribute {printable(name)} of {printable(entry.name)} has {len(value)} bytes"
            )


def clamp_time(nanoseconds: int) -> int:
    """A time that every file system can keep."""
    if 0 <= nanoseconds <= MAX_TIME:
        return nanoseconds
    return 0 if nanoseconds < 0 else MAX_TIME


def verify_device(entry: Entry) -> None:
    """Refuse numbers the kernel cannot have, and the one device that overlayfs takes for a hole.

    Raises:
        DecodeError: major beyond 12 bits, minor beyond 20, or a character device 0:0.
    """
    if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
        raise DecodeError(f"device number {entry.major}:{entry.minor} is out of range")
    if entry.kind is Kind.CHARACTER and (entry.major, entry.minor) == (0, 0):
        raise DecodeError("character device 0:0 in a layer is a whiteout in disguise")


def printable(name: bytes) -> str:
    """A name for a message: at most 200 bytes, control characters escaped."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
