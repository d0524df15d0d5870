"""What a jailed worker reports and only the puller may do.

Device nodes, whiteouts, opaque marks, and the attributes of parents that a layer implies: done
once the layer is verified and the layers below it are there, before the rename. Paths come from a
worker that read hostile bytes: each is walked without following a link.

Source: docs/spec/image-pull.md §12.3-4, -9 and -10; docs/ARCHITECTURE.md, decision 6.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from guest.errors import DecodeError, PeerError, PlatformError
from image_pull.layers.paths import open_directory, remove_if_empty, split_parent
from image_pull.layers.record import Device, LayerRecord, split_path
from image_pull.layers.remove import DIRECTORY

T = TypeVar("T")

OPAQUE: Final = b"trusted.overlay.opaque"
OVERLAY_XATTRS: Final = b"trusted.overlay."
ORIGIN: Final = b"trusted.overlay.origin"
"""Empty: of unknown origin. overlayfs then looks for whiteouts among the names of a directory.

In one that a single layer has it would list them, as names of what cannot be opened.
"""
WHITEOUT_MODE: Final = stat.S_IFCHR


def apply_privileged(record: LayerRecord, target: int, below: Sequence[Path]) -> None:
    """Finish a layer's tree for overlayfs.

    Args:
        record: what its worker reported.
        target: descriptor of its tree's root.
        below: trees of the layers below it, the topmost first, finished themselves; needed only
            when `record.implicit` is not empty.

    Raises:
        PlatformError: the tree was unpacked without privilege, or the system refused.
        PeerError: the record's paths do not lead to what it says: the worker was taken over.
    """
    if not record.privileged:
        raise PlatformError("a layer unpacked without privilege cannot be mounted")
    try:
        absent = [path for path in record.implicit if not _adopt(target, path, below)]
        _make_nodes(record, target)
        _make_whiteouts(record, target, frozenset(absent))
        _drop_empty(target, [path for path in absent if path not in record.opaque])
        for path in record.opaque:
            with open_directory(target, path) as directory:
                os.setxattr(directory, OPAQUE, b"y")
    except (DecodeError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise PeerError("report on a layer does not fit its tree") from error
    except OSError as error:
        raise PlatformError("layer cannot be finished") from error


@contextmanager
def kept_times(directory: int) -> Iterator[None]:
    """Whatever the block makes in the directory, its times stay.

    Raises:
        OSError: the system refused.
    """
    before = os.fstat(directory)
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _make_nodes(record: LayerRecord, target: int) -> None:
    """Device nodes, then further links to them."""
    first = [device for device in record.devices if not device.link_to]
    links = [device for device in record.devices if device.link_to]
    for parent, group in _by_parent(first, lambda device: device.path):
        with open_directory(target, parent) as directory, kept_times(directory):
            for device in group:
                make_device(directory, split_parent(device.path)[1], device)
    for device in links:
        _link(target, device)


def _make_whiteouts(record: LayerRecord, target: int, absent: frozenset[bytes]) -> None:
    """Whiteouts, but in directories that no layer below has: there is nothing to hide."""
    for parent, group in _by_parent(record.whiteouts, lambda path: path):
        if parent in absent:
            continue
        with open_directory(target, parent) as directory, kept_times(directory):
            for path in group:
                name = split_parent(path)[1]
                os.mknod(name, WHITEOUT_MODE, os.makedev(0, 0), dir_fd=directory)
            os.setxattr(directory, ORIGIN, b"")


def _drop_empty(target: int, implied: Sequence[bytes]) -> None:
    """Remove parents that only whiteouts of nothing implied; the deepest come last."""
    for path in reversed(implied):
        parent, name = split_parent(path)
        with open_directory(target, parent) as directory, kept_times(directory):
            remove_if_empty(directory, name)


def _by_parent(
    things: Iterable[T], path_of: Callable[[T], bytes]
) -> Iterator[tuple[bytes, Iterator[T]]]:
    """Neighbours with one parent share one walk to it."""
    return groupby(things, key=lambda thing: split_parent(path_of(thing))[0])


def make_device(directory: int, name: bytes, device: Device) -> None:
    """Make one node with all its attributes; it must not be there yet.

    Raises:
        OSError: the system refused.
    """
    kind = stat.S_IFMT(device.mode)
    if kind not in (stat.S_IFCHR, stat.S_IFBLK) or (device.major, device.minor) == (0, 0):
        raise DecodeError("report on a layer has a device that is none")
    os.mknod(name, kind, os.makedev(device.major, device.minor), dir_fd=directory)
    os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)
    node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        for attribute, value in device.xattrs.items():
            with suppress(PermissionError):  # user.* cannot be had on a device
                os.setxattr(f"/proc/self/fd/{node}", attribute, value)
        os.chmod(f"/proc/self/fd/{node}", stat.S_IMODE(device.mode))
    finally:
        os.close(node)
    times = (device.atime, device.mtime)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def _link(target: int, device: Device) -> None:
    source_parent, source = split_parent(device.link_to)
    parent, name = split_parent(device.path)
    with open_directory(target, source_parent) as origin, open_directory(target, parent) as place:
        with kept_times(place):
            os.link(source, name, src_dir_fd=origin, dst_dir_fd=place, follow_symlinks=False)


def _adopt(target: int, path: bytes, below: Sequence[Path]) -> bool:
    """Give an implied parent what the nearest layer below says of it.

    Returns:
        Whether a layer says anything.
    """
    for tree in below:
        root = os.open(tree, DIRECTORY)
        try:
            found = _find_below(root, path)
            if found is None:
                continue
            if found >= 0:
                try:
                    with open_directory(target, path) as directory:
                        _copy_attributes(found, directory)
                finally:
                    os.close(found)
            return True
        finally:
            os.close(root)
    return False


def _find_below(root: int, path: bytes) -> int | None:
    """A descriptor of the directory in one lower layer.

    Returns:
        None when the layer has nothing to say of it; -1 when it hides it.
    """
    here, is_opaque = os.dup(root), _is_opaque(root)
    for part in split_path(path):
        try:
            below = os.open(part, DIRECTORY, dir_fd=here)
        except FileNotFoundError:
            return -1 if is_opaque else None
        except OSError:
            # a whiteout, a file or a link: nothing further down shines through
            return -1
        finally:
            os.close(here)
        here = below
        is_opaque = is_opaque or _is_opaque(here)
    return here


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    for name in map(os.fsencode, os.listxattr(source)):
        if not name.startswith(OVERLAY_XATTRS):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
