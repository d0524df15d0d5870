"""The directories of one layer while it is unpacked: a model in memory and descriptors on disk.

Names are resolved here, as if the layer's root were the root of the file system: links are
followed by reading them, absolute ones start again at the root, `..` stops at it. The unpacker is
the directory's only writer, so the model of its directories cannot be wrong; every step on disk
still refuses to follow a link.

Source: docs/spec/image-pull.md §12.3-2 and -10.
"""

import errno
import os
from collections import OrderedDict
from typing import Final

from guest.errors import DecodeError
from image_pull.layers.header import Entry
from image_pull.layers.record import MAX_DEPTH, MAX_PATH, Device, Kept
from image_pull.layers.remove import DIRECTORY, remove_entry
from image_pull.layers.rules import MAX_LINKS, printable

MAX_OPEN: Final = 64
"""Directories kept open."""


class NotDirectoryError(DecodeError):
    """A path leads through what this layer has made, and what is no directory."""


class Directory:
    """One directory of the layer.

    Attributes:
        entry: what the layer says of it; None for a parent that it only implies.
        opaque: lower layers' content is hidden.
        whiteouts: names whose lower-layer things are hidden.
        devices: nodes that only the puller can make, by name.
        kept: what the disk could not take of the things in here, by name.
    """

    __slots__ = (
        "children",
        "depth",
        "devices",
        "entry",
        "kept",
        "length",
        "name",
        "opaque",
        "parent",
        "whiteouts",
    )

    def __init__(self, name: bytes, parent: "Directory | None") -> None:
        self.name = name
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.length: int = parent.length + len(name) + 1 if parent else 0
        self.children: dict[bytes, Directory] = {}
        self.entry: Entry | None = None
        self.opaque = False
        self.whiteouts: set[bytes] = set()
        self.devices: dict[bytes, Device] = {}
        self.kept: dict[bytes, Kept] = {}

    def path(self, name: bytes = b"") -> bytes:
        """The path of `name` in here, or of this directory; the root is empty."""
        parts = [name] if name else []
        here: Directory | None = self
        while here is not None and here.parent is not None:
            parts.append(here.name)
            here = here.parent
        return b"/".join(reversed(parts))


class Tree:
    """The layer's directories.

    Args:
        root: descriptor of the layer's root; stays the caller's.

    Attributes:
        removals: how often something was removed; what was resolved before may mean another thing.
    """

    def __init__(self, root: int) -> None:
        self.root = Directory(b"", None)
        self._root_fd = root
        self._open: OrderedDict[Directory, int] = OrderedDict()
        self._last = self.root, root
        self.removals = 0

    def descriptor(self, directory: Directory) -> int:
        """A descriptor of the directory, valid until the next call of any method.

        Raises:
            OSError: the system refused.
        """
        last, fd = self._last
        if directory is last:
            return fd
        self._last = self.root, self._root_fd  # what was the last may be closed now
        fd = self._find(directory)
        self._last = directory, fd
        return fd

    def _find(self, directory: Directory) -> int:
        if directory.parent is None:
            return self._root_fd
        found = self._open.get(directory)
        if found is not None:
            self._open.move_to_end(directory)
            return found
        missing = [directory]
        above = directory.parent
        while above.parent is not None and above not in self._open:
            missing.append(above)
            above = above.parent
        parent = self._root_fd if above.parent is None else self._open[above]
        for step in reversed(missing):
            fd = os.open(step.name, DIRECTORY, dir_fd=parent)
            self._open[step] = parent = fd
            # the one just opened is the last to go
            while len(self._open) > MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        return parent

    def resolve(self, parts: list[bytes], *, create: bool) -> Directory:
        """The directory that a path leads to, links followed inside the root.

        Args:
            parts: components, cleaned; all of them are directories or links to such.
            create: make what is missing, as a parent that the layer only implies.

        Raises:
            NotDirectoryError: a component is no directory.
            DecodeError: a component is missing, or the links do not end.
            OSError: the system refused.
        """
        here = self.root
        pending = parts[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.parent or here
                continue
            child = here.children.get(name)
            if child is None:
                target = self._read_link(here, name)
                if target is None:
                    if not create:
                        raise DecodeError(f"no such directory in the layer: {printable(name)}")
                    child = self.make_directory(here, name)
                else:
                    links += 1
                    if links > MAX_LINKS:
                        raise DecodeError(f"too many symbolic links: {printable(name)}")
                    here = self.root if target.startswith(b"/") else here
                    pending += reversed(target.split(b"/"))
                    continue
            here = child
        return here

    def _read_link(self, parent: Directory, name: bytes) -> bytes | None:
        """The target of a link, or None where there is nothing."""
        if name in parent.devices:
            raise NotDirectoryError(f"not a directory in the layer: {printable(name)}")
        try:
            return os.readlink(name, dir_fd=self.descriptor(parent))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                message = f"not a directory in the layer: {printable(name)}"
                raise NotDirectoryError(message) from error
            if error.errno == errno.ENAMETOOLONG:
                raise DecodeError(f"name is too long: {printable(name)}") from error
            raise

    def make_directory(self, parent: Directory, name: bytes) -> Directory:
        """Make a directory that the model does not have; what else has the name goes.

        A whiteout of that name, or a thing of this layer that was no directory, hid what lower
        layers have there: that becomes the new directory's opaqueness.

        Raises:
            DecodeError: too deep, or its path too long.
            OSError: the system refused.
        """
        child = Directory(name, parent)
        if child.depth > MAX_DEPTH or child.length > MAX_PATH:
            raise DecodeError(f"directory is too deep: {printable(name)}")
        try:
            os.mkdir(name, 0o700, dir_fd=self.descriptor(parent))
        except FileExistsError:
            self.remove(parent, name)
            os.mkdir(name, 0o700, dir_fd=self.descriptor(parent))
            child.opaque = True
        if name in parent.whiteouts or name in parent.devices:
            parent.whiteouts.discard(name)
            child.opaque = True
        self.forget(parent, name)
        parent.children[name] = child
        return child

    def forget(self, parent: Directory, name: bytes) -> None:
        """Drop what is noted of a name that gets another meaning."""
        parent.devices.pop(name, None)
        parent.kept.pop(name, None)

    def remove(self, parent: Directory, name: bytes) -> None:
        """Remove what is on disk under a name, and from the model.

        Raises:
            OSError: the system refused.
        """
        self.removals += 1
        if parent.children.pop(name, None) is not None:
            self.close()
        remove_entry(self.descriptor(parent), name)
        self.forget(parent, name)

    def exists(self, parent: Directory, name: bytes) -> bool:
        """Whether this layer has put something there.

        Raises:
            OSError: the system refused.
        """
        if name in parent.children or name in parent.devices:
            return True
        try:
            os.stat(name, dir_fd=self.descriptor(parent), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Close every descriptor but the root's; they open again when needed."""
        self._last = self.root, self._root_fd
        while self._open:
            os.close(self._open.popitem()[1])
