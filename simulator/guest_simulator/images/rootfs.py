"""What a stack of layers must look like once unpacked. Sans-I/O.

Written from the specification, independent of every unpacker.

Source: OCI image-spec "Layer", "Applying Changesets".
"""

from collections.abc import Iterable
from dataclasses import replace

from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer


def expected_rootfs(layers: Iterable[Layer]) -> dict[str, Entry]:
    """Every path of the result and the entry that made it.

    A hard link keeps its own entry, `target` names the path it shares an inode with; what is
    behind it is found by `resolve`. Directories that no entry names are not listed.
    """
    tree: dict[str, Entry] = {}
    for layer in layers:
        _apply(tree, layer.entries)
    return dict(sorted(tree.items()))


def resolve(tree: dict[str, Entry], path: str) -> Entry:
    """The entry that holds the content and attributes of a path, through hard links.

    Raises:
        KeyError: no such path.
    """
    entry = tree[path]
    while entry.kind is Kind.HARD_LINK:
        entry = tree[entry.target]
    return entry


def _apply(tree: dict[str, Entry], entries: tuple[Entry, ...]) -> None:
    lower = set(tree)
    for entry in entries:
        if entry.kind is Kind.OPAQUE:
            for path in lower:
                if not entry.path or path.startswith(entry.path + "/"):
                    _remove(tree, path)
        elif entry.kind is Kind.WHITEOUT:
            for path in lower:
                if path == entry.path or path.startswith(entry.path + "/"):
                    _remove(tree, path)
    for entry in entries:
        if entry.kind in (Kind.OPAQUE, Kind.WHITEOUT):
            continue
        old = tree.get(entry.path)
        both = old is not None and old.kind is Kind.DIRECTORY and entry.kind is Kind.DIRECTORY
        if old is not None and not both:
            for path in [p for p in tree if p.startswith(entry.path + "/")]:
                _remove(tree, path)
            _remove(tree, entry.path)
        tree[entry.path] = entry


def _remove(tree: dict[str, Entry], path: str) -> None:
    """Remove one name; if others are hard links to it, the first of them becomes the file."""
    gone = tree.pop(path, None)
    if gone is None or gone.kind is Kind.DIRECTORY:
        return
    heirs = [p for p, e in tree.items() if e.kind is Kind.HARD_LINK and e.target == path]
    if not heirs:
        return
    first = heirs[0]
    tree[first] = replace(gone, path=first)
    for other in heirs[1:]:
        tree[other] = replace(tree[other], target=first)
