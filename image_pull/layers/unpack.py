"""A layer's entries made into files, by the rules of the specification.

Runs in the worker. What only the puller can do (device nodes, whiteouts, opaque marks, parents
that the layer implies) is noted, not done.

Source: docs/spec/image-pull.md §12.3.
"""

import os
from collections.abc import Callable
from typing import Final

from guest.errors import DecodeError, LimitError
from image_pull.layers import rules
from image_pull.layers.attributes import OWN_FILE, Attributes
from image_pull.layers.finish import Noted, finish_directories
from image_pull.layers.header import Entry, Kind
from image_pull.layers.record import MAX_COMPONENT, MAX_PATH, Device
from image_pull.layers.rules import Whiteout, clamp_time, printable
from image_pull.layers.tar import Data
from image_pull.layers.tree import Directory, NotDirectoryError, Tree

MAX_ENTRIES: Final = 1_000_000
"""Most entries of one layer."""

MAX_CACHED: Final = 1024
"""Parents whose resolution is remembered."""

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FIFO: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

Place = tuple[Directory, bytes]
"""A resolved parent and a name in it; an empty name is the root itself."""


class Unpacker:
    """Makes one layer under a directory that is empty and nobody else writes to.

    Attributes:
        entries: headers so far.
        tree: the layer's directories.
        attributes: sets owners, modes, times and xattrs.
    """

    __slots__ = (
        "_entry",
        "_file",
        "_makers",
        "_name",
        "_parent",
        "_parents",
        "_removals",
        "attributes",
        "entries",
        "tree",
    )

    def __init__(self, root: int, privileged: bool) -> None:
        """Touch nothing yet.

        Args:
            root: descriptor of the layer's root; stays the caller's.
            privileged: owners can be set.
        """
        self.entries = 0
        self.tree = Tree(root)
        self.attributes = Attributes(privileged=privileged)
        # the open file: its descriptor or -1, and what it is made of
        self._file = -1
        self._entry: Entry
        self._parent: Directory
        self._name: bytes
        self._removals = 0
        self._parents: dict[bytes, Directory] = {}
        self._makers: dict[Kind, Callable[[Entry, Directory, bytes], None]] = {
            Kind.DIRECTORY: self._make_directory,
            Kind.SYMLINK: self._make_symlink,
            Kind.HARD_LINK: self._make_hard_link,
            Kind.FIFO: self._make_fifo,
            Kind.CHARACTER: self._make_device,
            Kind.BLOCK: self._make_device,
        }

    def entry(self, entry: Entry) -> None:
        """Make one entry; the data of a file follows by `data`.

        Raises:
            DecodeError: the entry breaks a rule.
            LimitError: one entry too many.
            OSError: the system refused.
        """
        if self._file >= 0:
            self._close_file()
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise LimitError(f"layer has more than {MAX_ENTRIES} entries")
        if entry.xattrs:
            rules.verify_xattrs(entry)
        try:
            parent, name = self._locate(entry.name)
        except NotDirectoryError:
            if rules.find_whiteout(rules.clean_name(entry.name)[-1]) is Whiteout.HIDE:
                # Compat: umoci removes one by one what was in a directory that became a file
                return
            raise
        if not name:
            if entry.kind is not Kind.DIRECTORY:
                raise DecodeError("Illegal entry name in the layer tar: the root is a directory")
            self.tree.root.entry = entry
            return
        if name.startswith(rules.WHITEOUT) and self._take_whiteout(parent, name):
            return
        if entry.kind is Kind.REGULAR:
            self._make_file(entry, parent, name)
        else:
            self._makers[entry.kind](entry, parent, name)

    def data(self, data: Data) -> None:
        """Write bytes of the last entry; of one that makes no file they are dropped.

        Raises:
            OSError: the system refused.
        """
        fd = self._file
        if fd < 0:
            return
        offset, view = data
        if self._entry.segments is None:
            written = os.write(fd, view)
        else:
            written = os.pwrite(fd, view, offset)
        while written < len(view):
            written += os.pwrite(fd, view[written:], offset + written)
            os.lseek(fd, offset + written, os.SEEK_SET)

    def finish(self) -> Noted:
        """Set what directories keep until the end; gives what the puller has to know.

        Raises:
            OSError: the system refused.
        """
        if self._file >= 0:
            self._close_file()
        return finish_directories(self.tree, self.attributes)

    def _locate(self, name: bytes) -> Place:
        """Resolve the parent of a name; the last component is never followed."""
        if self._removals != self.tree.removals:
            self._removals = self.tree.removals
            self._parents.clear()
        head, _, base = name.rpartition(b"/")
        parent = self._parents.get(head)
        is_plain = base not in (b"", b".", b"..") and len(base) <= MAX_COMPONENT
        if parent is None or not is_plain or b"\0" in base:
            parts = rules.clean_name(name)
            if not parts:
                return self.tree.root, b""
            parent = self.tree.resolve(parts[:-1], create=True)
            if is_plain:
                if len(self._parents) >= MAX_CACHED:
                    self._parents.clear()
                self._parents[head] = parent
            base = parts[-1]
        if parent.length + len(base) > MAX_PATH:
            raise DecodeError(f"Illegal entry name in the layer tar: {printable(name)}")
        return parent, base

    def _take_whiteout(self, parent: Directory, name: bytes) -> bool:
        match rules.find_whiteout(name):
            case Whiteout.OPAQUE:
                parent.opaque = True
            case Whiteout.HIDE:
                hidden = name[len(rules.WHITEOUT) :]
                child = parent.children.get(hidden)
                if child is not None:
                    child.opaque = True
                elif not self.tree.exists(parent, hidden):
                    parent.whiteouts.add(hidden)
        return True

    def _claim(self, parent: Directory, name: bytes) -> None:
        """The name now stands for something of this layer."""
        if parent.whiteouts:
            parent.whiteouts.discard(name)
        if parent.devices or parent.kept:
            self.tree.forget(parent, name)

    def _make_file(self, entry: Entry, parent: Directory, name: bytes) -> None:
        self._claim(parent, name)
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self.tree.descriptor(parent))
        except FileExistsError:
            self.tree.remove(parent, name)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self.tree.descriptor(parent))
        self._file, self._entry, self._parent, self._name = fd, entry, parent, name

    def _close_file(self) -> None:
        fd, self._file = self._file, -1
        try:
            if self._entry.segments is not None:
                os.ftruncate(fd, self._entry.size)
            kept = self.attributes.set_on(fd, self._entry, OWN_FILE)
            if kept is not None:
                self._parent.kept[self._name] = kept
        finally:
            os.close(fd)

    def _make_directory(self, entry: Entry, parent: Directory, name: bytes) -> None:
        directory = parent.children.get(name)
        if directory is None:
            directory = self.tree.make_directory(parent, name)
        directory.entry = entry

    def _make_symlink(self, entry: Entry, parent: Directory, name: bytes) -> None:
        if not entry.link or b"\0" in entry.link or len(entry.link) >= MAX_PATH:
            raise DecodeError(f"symbolic link has no possible target: {printable(entry.name)}")
        self._claim(parent, name)
        try:
            os.symlink(entry.link, name, dir_fd=self.tree.descriptor(parent))
        except FileExistsError:
            self.tree.remove(parent, name)
            os.symlink(entry.link, name, dir_fd=self.tree.descriptor(parent))
        kept = self.attributes.set_on_link(name, self.tree.descriptor(parent), entry)
        if kept is not None:
            parent.kept[name] = kept

    def _make_hard_link(self, entry: Entry, parent: Directory, name: bytes) -> None:
        parts = rules.clean_name(entry.link)
        if not parts:
            raise DecodeError(f"hard link to the root: {printable(entry.name)}")
        source, target = self.tree.resolve(parts[:-1], create=False), parts[-1]
        if (source, target) == (parent, name):
            raise DecodeError(f"hard link to itself: {printable(entry.name)}")
        if self.tree.exists(parent, name):
            self._make_room(parent, name)
        self._claim(parent, name)
        device = source.devices.get(target)
        if device is not None:
            path = device.link_to or source.path(target)
            parent.devices[name] = device._replace(link_to=path)
            return
        self._link(source, target, parent, name, entry)
        kept = source.kept.get(target)
        if kept is not None:
            parent.kept[name] = kept

    def _link(
        self, source: Directory, target: bytes, parent: Directory, name: bytes, entry: Entry
    ) -> None:
        try:
            fd = os.dup(self.tree.descriptor(source))
            try:
                os.link(
                    target,
                    name,
                    src_dir_fd=fd,
                    dst_dir_fd=self.tree.descriptor(parent),
                    follow_symlinks=False,
                )
            finally:
                os.close(fd)
        except (FileNotFoundError, PermissionError) as error:
            message = f"hard link to a missing file or a directory: {printable(entry.link)}"
            raise DecodeError(message) from error

    def _make_room(self, parent: Directory, name: bytes) -> None:
        if name in parent.devices:
            self.tree.forget(parent, name)
        else:
            self.tree.remove(parent, name)

    def _make_fifo(self, entry: Entry, parent: Directory, name: bytes) -> None:
        if self.tree.exists(parent, name):
            self._make_room(parent, name)
        self._claim(parent, name)
        os.mkfifo(name, 0o600, dir_fd=self.tree.descriptor(parent))
        fd = os.open(name, _FIFO, dir_fd=self.tree.descriptor(parent))
        try:
            kept = self.attributes.set_on(fd, entry, 0, special=True)
        finally:
            os.close(fd)
        if kept is not None:
            parent.kept[name] = kept

    def _make_device(self, entry: Entry, parent: Directory, name: bytes) -> None:
        rules.verify_device(entry)
        if self.tree.exists(parent, name):
            self._make_room(parent, name)
        self._claim(parent, name)
        kind = 0o020000 if entry.kind is Kind.CHARACTER else 0o060000
        parent.devices[name] = Device(
            path=b"",
            mode=kind | entry.mode,
            major=entry.major,
            minor=entry.minor,
            uid=entry.uid,
            gid=entry.gid,
            mtime=clamp_time(entry.mtime),
            atime=clamp_time(entry.atime),
            xattrs={k: v for k, v in entry.xattrs.items() if rules.is_settable_xattr(k)},
        )
