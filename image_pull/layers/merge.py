"""Layers copied together into one directory, where they cannot be mounted.

What overlayfs would do in the kernel is done here: upper layers replace and hide what lower ones
have. Owners and device nodes are made where this process may; else they stay in the records.

Source: docs/spec/image-pull.md §12.3-9 and -10; docs/ARCHITECTURE.md, decision 6.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guest.errors import DecodeError, PeerError, PlatformError
from image_pull.layers.copying import copy_data, copy_xattrs
from image_pull.layers.paths import open_directory, remove_if_empty, split_parent
from image_pull.layers.privileged import make_device
from image_pull.layers.record import Kept, LayerRecord, RootEntry
from image_pull.layers.remove import DIRECTORY, empty_directory, remove_entry

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def merge_layers(layers: Sequence[tuple[Path, LayerRecord]], target: Path) -> None:
    """Copy layers together.

    Args:
        layers: trees and records, the bottom one first.
        target: the directory to make; its parent exists.

    Raises:
        PlatformError: the disk refused.
        PeerError: a record does not fit its tree.
    """
    try:
        target.mkdir(mode=0o700)
        root = os.open(target, DIRECTORY)
        try:
            merger = _Merger(root)
            for tree, record in layers:
                merger.add(tree, record)
            merger.finish()
        finally:
            os.close(root)
    except DecodeError as error:
        raise PeerError("record of a layer does not fit its tree") from error
    except OSError as error:
        raise PlatformError(f"layers cannot be copied together: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Attributes:
    """What a directory gets at the end; an owner only where it may be set."""

    mode: int
    owner: tuple[int, int] | None
    times: tuple[int, int]


@dataclass(slots=True)
class _Layer:
    """The layer being copied."""

    root: int
    record: LayerRecord
    kept: dict[bytes, Kept]
    implicit: frozenset[bytes]
    links: dict[tuple[int, int], bytes] = field(default_factory=dict)
    added: list[bytes] = field(default_factory=list)
    """Implied directories that no layer below has."""


class _Merger:
    """The directory that layers are copied into, the bottom one first."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._directories: dict[bytes, _Attributes] = {b"": _root_attributes(RootEntry(), False)}

    def add(self, tree: Path, record: LayerRecord) -> None:
        """Copy one layer over those before.

        Raises:
            DecodeError: a path of the record is not plain.
            OSError: the disk refused.
        """
        self._hide(record)
        if record.root is not None:
            self._directories[b""] = _root_attributes(record.root, record.privileged)
        source = os.open(tree, DIRECTORY)
        try:
            layer = _Layer(
                source, record, {k.path: k for k in record.kept}, frozenset(record.implicit)
            )
            waiting = [b""]
            while waiting:
                waiting += self._copy_directory(layer, waiting.pop())
            self._add_devices(layer)
            self._drop_empty(layer)
        finally:
            os.close(source)

    def finish(self) -> None:
        """Give directories their attributes, the deepest first.

        Raises:
            OSError: the disk refused.
        """
        for path in sorted(self._directories, key=lambda path: -path.count(b"/") - bool(path)):
            attributes = self._directories[path]
            with suppress(FileNotFoundError, NotADirectoryError):  # an upper layer hid it
                with open_directory(self._root, path) as directory:
                    if attributes.owner is not None:
                        os.fchown(directory, *attributes.owner)
                    os.fchmod(directory, attributes.mode)
                    os.utime(directory, ns=attributes.times)

    def _hide(self, record: LayerRecord) -> None:
        for path in record.whiteouts:
            parent, name = split_parent(path)
            with suppress(FileNotFoundError, NotADirectoryError):  # nothing there to hide
                with open_directory(self._root, parent) as directory:
                    remove_entry(directory, name)
        for path in record.opaque:
            with suppress(FileNotFoundError, NotADirectoryError):  # nothing there to hide
                with open_directory(self._root, path) as directory:
                    empty_directory(directory)

    def _copy_directory(self, layer: _Layer, path: bytes) -> list[bytes]:
        """Copy what is directly in a directory; gives the directories in it."""
        inner = []
        with (
            open_directory(layer.root, path) as source,
            open_directory(self._root, path) as target,
        ):
            for name in map(os.fsencode, os.listdir(source)):
                below = path + b"/" + name if path else name
                status = os.stat(name, dir_fd=source, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    self._merge_directory(layer, below, status, target)
                    inner.append(below)
                elif not _is_whiteout(status):
                    self._copy(layer, below, status, source, target)
        return inner

    def _merge_directory(
        self, layer: _Layer, path: bytes, status: os.stat_result, target: int
    ) -> None:
        name = split_parent(path)[1]
        is_new = True
        try:
            os.mkdir(name, 0o700, dir_fd=target)
            if path in layer.implicit:
                layer.added.append(path)
        except FileExistsError:
            found = os.stat(name, dir_fd=target, follow_symlinks=False)
            is_new = not stat.S_ISDIR(found.st_mode)
            if is_new:
                remove_entry(target, name)
                os.mkdir(name, 0o700, dir_fd=target)
        if is_new or path not in layer.implicit:
            self._directories[path] = _attributes(layer, path, status)
            with open_directory(layer.root, path) as source, open_directory(target, name) as made:
                copy_xattrs(source, made)

    def _copy(
        self, layer: _Layer, path: bytes, status: os.stat_result, source: int, target: int
    ) -> None:
        """Copy anything but a directory; what had the name goes."""
        name = split_parent(path)[1]
        with suppress(FileNotFoundError):  # mostly nothing has the name yet
            remove_entry(target, name)
        identity = (status.st_dev, status.st_ino)
        first = layer.links.get(identity)
        if first is not None:
            self._link(first, target, name)
            return
        if status.st_nlink > 1:
            layer.links[identity] = path
        attributes = _attributes(layer, path, status)
        if stat.S_ISREG(status.st_mode):
            _copy_file(name, source, target, attributes)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        if attributes.owner is not None:
            os.chown(name, *attributes.owner, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, attributes.mode, dir_fd=target)
        os.utime(name, ns=attributes.times, dir_fd=target, follow_symlinks=False)

    def _add_devices(self, layer: _Layer) -> None:
        """Make nodes where this process may; where it may not, the record is all there is.

        Those that a finished tree has were copied from there.
        """
        for device in sorted(layer.record.devices, key=lambda device: bool(device.link_to)):
            parent, name = split_parent(device.path)
            with open_directory(layer.root, parent) as source:
                if _exists(source, name):
                    continue
            with open_directory(self._root, parent) as directory:
                if _exists(directory, name):
                    remove_entry(directory, name)
                with suppress(PermissionError, FileNotFoundError):
                    if device.link_to:
                        self._link(device.link_to, directory, name)
                    else:
                        make_device(directory, name, device)

    def _drop_empty(self, layer: _Layer) -> None:
        """Remove parents that only whiteouts of nothing implied; deeper ones were made later."""
        nodes = {split_parent(device.path)[0] for device in layer.record.devices}
        for path in reversed(layer.added):
            if path in nodes or path in layer.record.opaque:
                continue
            parent, name = split_parent(path)
            with open_directory(self._root, parent) as directory:
                remove_if_empty(directory, name)

    def _link(self, first: bytes, directory: int, name: bytes) -> None:
        parent, origin = split_parent(first)
        with open_directory(self._root, parent) as place:
            os.link(origin, name, src_dir_fd=place, dst_dir_fd=directory, follow_symlinks=False)


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _copy_file(name: bytes, source: int, target: int, attributes: _Attributes) -> None:
    reading = os.open(name, _READ, dir_fd=source)
    try:
        writing = os.open(name, _NEW_FILE, 0o600, dir_fd=target)
        try:
            copy_data(reading, writing)
            if attributes.owner is not None:
                os.fchown(writing, *attributes.owner)
            copy_xattrs(reading, writing)
            os.fchmod(writing, attributes.mode)
            os.utime(writing, ns=attributes.times)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _attributes(layer: _Layer, path: bytes, status: os.stat_result) -> _Attributes:
    kept = layer.kept.get(path)
    owner = (status.st_uid, status.st_gid) if layer.record.privileged else None
    mode = stat.S_IMODE(status.st_mode) if kept is None else kept.mode
    return _Attributes(mode, owner, (status.st_atime_ns, status.st_mtime_ns))


def _root_attributes(root: RootEntry, privileged: bool) -> _Attributes:
    owner = (root.uid, root.gid) if privileged else None
    return _Attributes(root.mode, owner, (root.atime, root.mtime))


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(0, 0)
