"""What an unpacked layer has beside its files: the unpacker's report. Sans-I/O.

A record is kept beside its layer in the store. Paths are bytes relative to the layer's root,
without a leading slash; parents come before what is below them.

Source: docs/spec/image-pull.md §12.3.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from guest.errors import DecodeError
from image_pull.layers.pack import pack

MAX_RECORD: Final = 16 * 1024 * 1024
"""Most bytes of an encoded record."""

MAX_PATH: Final = 4096
"""Most bytes of a path."""

MAX_COMPONENT: Final = 255
"""Most bytes of one component of a path."""

MAX_DEPTH: Final = 1024
"""Most components of a path."""

NO_XATTRS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Jail(StrEnum):
    """What kept the unpacker inside its directory, beside its own resolution of names."""

    FULL = "full"
    """chroot, uid 65534, five capabilities; owners, modes and xattrs are on disk."""
    LANDLOCK = "landlock"
    """Landlock rules, no privilege."""
    RESOLVER = "resolver"
    """Nothing else: neither chroot nor Landlock can be had here."""


class Device(NamedTuple):
    """A character or block device, which only the puller can make.

    Attributes:
        path: where.
        mode: type and permission bits, as in `st_mode`.
        link_to: path of the device that this is a hard link to; empty for a device of its own.
        mtime: nanoseconds since the epoch.
        atime: nanoseconds since the epoch.
    """

    path: bytes
    mode: int
    major: int
    minor: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    atime: int = 0
    link_to: bytes = b""
    xattrs: Mapping[bytes, bytes] = NO_XATTRS


class Kept(NamedTuple):
    """What the image says of one path and the disk could not take.

    Attributes:
        path: where; empty for the layer's root.
        uid: numeric owner.
        gid: numeric group.
        mode: the twelve permission bits.
        xattrs: those that are not on disk.
    """

    path: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0
    xattrs: Mapping[bytes, bytes] = NO_XATTRS


class RootEntry(NamedTuple):
    """The layer's own entry for its root directory; overlayfs takes these from the upper one."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    atime: int = 0
    xattrs: Mapping[bytes, bytes] = NO_XATTRS


class LayerRecord(NamedTuple):
    """The unpacker's report on one layer.

    Attributes:
        diff_id: digest of the uncompressed tar, verified.
        entries: headers in the tar that made something.
        tar_bytes: length of the uncompressed tar.
        jail: what kept the unpacker in.
        privileged: owners, modes and xattrs are on disk; else `kept` has those that are not.
        whiteouts: paths that hide what lower layers have there; not on disk before
            `apply_privileged`.
        opaque: directories that hide the content of lower layers; the empty path is the root.
        implicit: directories that the layer has no entry for, parents first.
        devices: device nodes; not on disk before `apply_privileged`.
        kept: what the disk could not take, where it differs from owner 0:0 and the mode on disk.
        root: the layer's entry for its root, if it has one.
        skipped_xattrs: extended attributes that policy or the file system did not take.
    """

    diff_id: str
    entries: int
    tar_bytes: int
    jail: Jail
    privileged: bool
    whiteouts: tuple[bytes, ...] = ()
    opaque: tuple[bytes, ...] = ()
    implicit: tuple[bytes, ...] = ()
    devices: tuple[Device, ...] = ()
    kept: tuple[Kept, ...] = ()
    root: RootEntry | None = None
    skipped_xattrs: int = 0

    def encode(self) -> bytes:
        """The record as MessagePack: an array of its fields."""
        return pack(self)

    @classmethod
    def decode(cls, data: bytes) -> "LayerRecord":
        """Parse MessagePack and check every path.

        Raises:
            DecodeError: not a record, too long, or a path that could leave the layer's root.
        """
        import msgspec

        from guest.prepared import prepared

        if len(data) > MAX_RECORD:
            raise DecodeError(f"layer record of {len(data)} bytes exceeds {MAX_RECORD}")
        try:
            record = msgspec.msgpack.decode(data, type=prepared(cls))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError("not a layer record") from error
        record.check_paths()
        return record

    def check_paths(self) -> None:
        """Refuse any path that is not plain and relative.

        Raises:
            DecodeError: a path has an empty, `.`, `..` or too long component, or a NUL.
        """
        for path in (*self.whiteouts, *self.implicit, *(d.path for d in self.devices)):
            split_path(path)
        for path in (*self.opaque, *(k.path for k in self.kept)):
            if path:
                split_path(path)
        for device in self.devices:
            if device.link_to:
                split_path(device.link_to)


def split_path(path: bytes) -> list[bytes]:
    """The components of a plain relative path.

    Raises:
        DecodeError: an empty, `.`, `..` or too long component, a NUL, too long or too deep.
    """
    parts = path.split(b"/")
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH or b"\0" in path:
        raise DecodeError("path in layer record is too long, too deep or has a NUL")
    for part in parts:
        if part in (b"", b".", b"..") or len(part) > MAX_COMPONENT:
            raise DecodeError(f"path in layer record is not plain: {path[:100]!r}")
    return parts
