"""Overlay mounts of stored layers, and the end of those that others unmounted.

Source: docs/spec/image-pull.md, sections 12.2, 14 and 16; Linux "Overlay Filesystem".
"""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from guest.errors import PlatformError
from image_pull.layers.record import RootEntry
from image_pull.layers.remove import remove_tree
from image_pull.store import syscalls
from image_pull.store.meta import Store
from image_pull.store.mountinfo import MOUNTINFO, mount_points

log = logging.getLogger(__name__)

MAX_OPTIONS: Final = 4095
"""Most bytes of options that mount(2) does not cut off."""

UPPER: Final = "upperdir"
WORK: Final = "workdir"
EMPTY: Final = "empty"
TARGET: Final = "mountpoint"
LAYERS: Final = "layers"
"""What a place says of its mount: where it is, and by name the layers that it shows."""
UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


class Overlays:
    """The overlay mounts of one store. All methods block."""

    def __init__(self, store: Store) -> None:
        """Keep upper and work directories in `store`."""
        self._store = store
        self._guard = threading.Lock()
        self._in_hand: set[Path] = set()

    @contextlib.contextmanager
    def _holding(self, place: Path) -> Iterator[None]:
        """Nobody reclaims a place that is being mounted or unmounted."""
        with self._guard:
            self._in_hand.add(place)
        try:
            yield
        finally:
            with self._guard:
                self._in_hand.discard(place)

    def why_not(self) -> str | None:
        """Try a mount in the store; the reason why it cannot be done, or None."""
        probe = self._store.staging / self._store.fresh_name()
        lower, target = probe / "lower", probe / "target"
        try:
            for directory in (lower, target):
                directory.mkdir(parents=True)
            self._mount([lower], probe, target, None)
            syscalls.unmount(os.fsencode(target), detach=True)
        except OSError as error:
            return str(error)
        finally:
            with contextlib.suppress(OSError):  # the next start of the store removes it
                remove_tree(probe)
        return None

    def mount(self, trees: Sequence[Path], target: Path, root: RootEntry | None) -> Path:
        """Mount layers read-write on an existing directory.

        Args:
            trees: layers, topmost first; none gives an empty root.
            target: where.
            root: owner, mode, times and xattrs of the root directory; None for 0755 root:root.

        Returns:
            The directory in the store that goes with the mount; for `unmount`.

        Raises:
            PlatformError: the kernel refuses; nothing is left.
        """
        place = self._store.mounts / self._store.fresh_name()
        with self._holding(place):
            try:
                place.mkdir(mode=0o700)
                names = "\n".join(tree.parent.name for tree in trees)
                (place / LAYERS).write_text(names, "utf-8", "surrogateescape")
                (place / TARGET).write_bytes(os.fsencode(target.resolve()))
                lowers = list(trees)
                if not lowers:
                    (place / EMPTY).mkdir()
                    lowers = [place / EMPTY]
                self._mount(lowers, place, target, root)
            except OSError as error:
                with contextlib.suppress(OSError):  # reclaimed with the next pull
                    remove_tree(place)
                raise PlatformError(f"overlay cannot be mounted on {target}: {error}") from error
        return place

    def _mount(
        self, lowers: Sequence[Path], place: Path, target: Path, root: RootEntry | None
    ) -> None:
        for name in (UPPER, WORK):
            (place / name).mkdir(mode=0o755)
        _dress(place / UPPER, root or RootEntry())
        try:
            mount_new(lowers, place / UPPER, place / WORK, target)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            mount_old(lowers, place / UPPER, place / WORK, target)

    def unmount(self, target: Path, place: Path) -> None:
        """Undo `mount`.

        Raises:
            PlatformError: the kernel or the disk refuses.
        """
        with self._holding(place):
            try:
                syscalls.unmount(os.fsencode(target), detach=True)
                remove_tree(place)
            except OSError as error:
                raise PlatformError(f"overlay on {target} cannot be undone: {error}") from error

    def place_of(self, target: Path) -> Path | None:
        """The directory in the store that goes with the mount on `target`, if there is one.

        Raises:
            OSError: the store cannot be read.
        """
        wanted = os.fsencode(target.resolve())
        for place in sorted(self._store.mounts.iterdir(), reverse=True):
            with contextlib.suppress(FileNotFoundError):  # half made, or half removed
                if (place / TARGET).read_bytes() == wanted:
                    return place
        return None

    def targets(self) -> list[Path]:
        """Where the mounts of the store are, or were.

        Raises:
            OSError: the store cannot be read.
        """
        found = []
        for place in sorted(self._store.mounts.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # half made, or half removed
                found.append(Path(os.fsdecode((place / TARGET).read_bytes())))
        return found

    def used_layers(self) -> frozenset[str]:
        """Names of the layers that a mount shows, or showed and was not reclaimed yet.

        Raises:
            OSError: the store cannot be read, so nothing is known.
        """
        names: set[str] = set()
        for place in self._store.mounts.iterdir():
            with contextlib.suppress(FileNotFoundError):  # half made, or half removed
                text = (place / LAYERS).read_text("utf-8", "surrogateescape")
                names.update(text.split("\n"))
        return frozenset(names)

    def reclaim(self) -> int:
        """Remove the directories of mounts that are no more; how many there were.

        Raises:
            PlatformError: mounts cannot be listed.
        """
        places = sorted(self._store.mounts.iterdir())
        with self._guard:
            in_hand = frozenset(self._in_hand)
        try:
            # After the two above: what was listed and is in nobody's hand is mounted by now.
            mounted = mount_points(Path(MOUNTINFO).read_bytes())
        except OSError as error:
            raise PlatformError("mounts cannot be listed") from error
        count = 0
        for place in places:
            if place in in_hand:
                continue
            try:
                if (place / TARGET).read_bytes() in mounted:
                    continue
            except FileNotFoundError:
                pass
            with contextlib.suppress(OSError):  # tried again with the next pull
                remove_tree(place)
                count += 1
        return count


def mount_new(lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount with one option for each layer, so that nothing is cut off or escaped.

    Raises:
        OSError: refused; EINVAL also where the kernel lacks `lowerdir+`.
    """
    context = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_string(context, "source", b"overlay")
        for lower in lowers:
            syscalls.fsconfig_string(context, "lowerdir+", os.fsencode(lower))
        for key, path in ((UPPER, upper), (WORK, work)):
            # Unlike `lowerdir+` these two still know the escapes of mount options.
            escaped = os.fsencode(path).replace(b"\\", b"\\\\")
            syscalls.fsconfig_string(context, key, escaped)
        syscalls.fsconfig_create(context)
        mount = syscalls.fsmount(context)
    finally:
        os.close(context)
    try:
        syscalls.move_mount(mount, os.fsencode(target))
    finally:
        os.close(mount)


def mount_old(lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount with mount(2); descriptors as paths keep the options short and free of colons.

    Raises:
        OSError: refused, or the options would be cut off.
    """
    with contextlib.ExitStack() as stack:

        def short(path: Path) -> bytes:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            return b"/proc/self/fd/%d" % descriptor

        below = b":".join(short(lower) for lower in lowers)
        options = b"lowerdir=%s,upperdir=%s,workdir=%s" % (below, short(upper), short(work))
        if len(options) > MAX_OPTIONS:
            raise OSError(errno.E2BIG, "overlay options are too long")
        syscalls.mount("overlay", os.fsencode(target), "overlay", options)


def _dress(directory: Path, root: RootEntry) -> None:
    """Owner, xattrs, mode and times, in the order in which none undoes another."""
    if (root.uid, root.gid) != (os.geteuid(), os.getegid()):
        os.chown(directory, root.uid, root.gid)
    for name, value in root.xattrs.items():
        os.setxattr(directory, name, value)
    os.chmod(directory, root.mode & 0o7777)
    os.utime(directory, ns=(root.atime, root.mtime))
