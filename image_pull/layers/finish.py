"""The end of unpacking: directories get their attributes, and what was noted is listed.

Source: docs/spec/image-pull.md §12.3-6, -9 and -10.
"""

from collections.abc import Iterator
from typing import Final

from image_pull.layers.attributes import OWN_DIRECTORY, Attributes
from image_pull.layers.header import Entry, Kind
from image_pull.layers.record import Device, Kept, RootEntry
from image_pull.layers.rules import clamp_time, is_settable_xattr
from image_pull.layers.tree import Directory, Tree


class Noted:
    """What of a layer is not, or not only, on disk; see `LayerRecord`."""

    __slots__ = ("devices", "implicit", "kept", "opaque", "root", "whiteouts")

    def __init__(self, root: RootEntry | None) -> None:
        """Nothing but the root is noted yet."""
        self.whiteouts: list[bytes] = []
        self.opaque: list[bytes] = []
        self.implicit: list[bytes] = []
        self.devices: list[Device] = []
        self.kept: list[Kept] = []
        self.root = root


IMPLIED: Final = Entry(Kind.DIRECTORY, b"", b"", 0o755, 0, 0, 0, 0, 0, 0, 0, {}, None)


def finish_directories(tree: Tree, attributes: Attributes) -> Noted:
    """Set every directory's attributes, the deepest first, and list what was noted.

    Raises:
        OSError: the system refused.
    """
    noted = Noted(root=_root_entry(tree.root.entry))
    for directory, hidden, leaving in _walk(tree.root):
        if not leaving:
            _list(directory, hidden, noted)
            continue
        entry = directory.entry or IMPLIED
        fd = tree.descriptor(directory)
        kept = attributes.set_on(fd, entry, OWN_DIRECTORY)
        if kept is not None:
            noted.kept.append(kept._replace(path=directory.path()))
    tree.close()
    noted.devices = _settle_links(noted.devices)
    return noted


def _walk(root: Directory) -> Iterator[tuple[Directory, bool, bool]]:
    """Each directory twice: before and after what is below it.

    The flags: whether it or one above it is opaque; whether this is the second time.
    """
    waiting = [(root, root.opaque, False)]
    while waiting:
        directory, hidden, leaving = waiting.pop()
        yield directory, hidden, leaving
        if not leaving:
            waiting.append((directory, hidden, True))
            waiting += [
                (child, hidden or child.opaque, False) for child in directory.children.values()
            ]


def _list(directory: Directory, hidden: bool, noted: Noted) -> None:
    if directory.opaque:
        noted.opaque.append(directory.path())
    if directory.entry is None and directory.parent is not None:
        noted.implicit.append(directory.path())
    if not hidden:
        # lower layers do not shine through an opaque directory: nothing to hide there
        noted.whiteouts += sorted(directory.path(name) for name in directory.whiteouts)
    for name, device in directory.devices.items():
        noted.devices.append(device._replace(path=directory.path(name)))
    for name, kept in directory.kept.items():
        noted.kept.append(kept._replace(path=directory.path(name)))


def _settle_links(devices: list[Device]) -> list[Device]:
    """Let links lead to a device that is still there: the first of a group may be replaced."""
    own = {device.path: device for device in devices if not device.link_to}
    heirs: dict[tuple[bytes, int, int, int], Device] = {}
    settled = list(own.values())
    for device in devices:
        if not device.link_to:
            continue
        alone = device._replace(link_to=b"")
        first = own.get(device.link_to)
        if first is None or first != alone._replace(path=first.path):
            key = (device.link_to, device.mode, device.major, device.minor)
            first = heirs.setdefault(key, alone)
        link = b"" if first.path == device.path else first.path
        settled.append(device._replace(link_to=link))
    return settled


def _root_entry(entry: Entry | None) -> RootEntry | None:
    if entry is None:
        return None
    return RootEntry(
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=clamp_time(entry.mtime),
        atime=clamp_time(entry.atime),
        xattrs={k: v for k, v in entry.xattrs.items() if is_settable_xattr(k)},
    )
