"""A bundle: `rootfs`, mounted or copied together, and `config.json`; all of it or nothing.

Source: docs/spec/image-pull.md, sections 1.4, 14 and 15.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.errors import GuestError, InvalidInputError, PlatformError
from image_pull.layers.record import LayerRecord
from image_pull.layers.remove import remove_tree
from image_pull.store.layers import StoredLayer
from image_pull.store.overlay import Overlays

ROOTFS: Final = "rootfs"
CONFIG: Final = "config.json"
PREFIX: Final = ".image-pull-"


Merge = Callable[[Sequence[tuple[Path, LayerRecord]], Path], None]
"""Copies layers, bottom first, together into a directory that it makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """Makes bundles. All methods block.

    Attributes:
        overlays: mounts root file systems; they are copied together where `mounts` is false.
        mounts: whether overlays can be mounted here.
        merge: copies layers together.
    """

    overlays: Overlays
    mounts: bool
    merge: Merge

    def check_free(self, bundle: Path) -> None:
        """Return if nothing of a bundle is there yet.

        Raises:
            InvalidInputError: not an absolute path, or something is there.
            PlatformError: it cannot be looked at.
        """
        if not bundle.is_absolute():
            raise InvalidInputError(f"bundle path {str(bundle)[:200]!r} is not absolute")
        try:
            if os.path.lexists(bundle / CONFIG):
                raise InvalidInputError(f'OCI config file already exists: "{bundle / CONFIG}"')
            with os.scandir(bundle / ROOTFS) as entries:
                if next(entries, None) is not None:
                    raise InvalidInputError(f"{bundle / ROOTFS} is not empty")
            if os.path.ismount(bundle / ROOTFS):
                raise InvalidInputError(f"{bundle / ROOTFS} is a mount point already")
        except FileNotFoundError:
            return
        except OSError as error:
            raise PlatformError(f"bundle cannot be looked at: {error}") from error

    def assemble(
        self, bundle: Path, layers: Sequence[StoredLayer], spec: Callable[[Path], bytes]
    ) -> None:
        """Make the bundle of layers, bottom first.

        Args:
            bundle: its directory, made if missing.
            layers: what the root file system consists of.
            spec: gives `config.json` for the finished root file system.

        Raises:
            GuestError: it cannot be made; what was made of it is gone again.
        """
        self.check_free(bundle)
        rootfs = bundle / ROOTFS
        with contextlib.ExitStack() as undo:
            try:
                if not rootfs.is_dir():
                    rootfs.mkdir(parents=True, mode=0o755)
                    undo.callback(_remove_quietly, rootfs)
                if self.mounts:
                    self._mount(layers, rootfs, undo)
                else:
                    self._copy(bundle, layers, undo)
                _write_new(bundle / CONFIG, spec(rootfs))
            except OSError as error:
                raise PlatformError(f"bundle {bundle} cannot be made: {error}") from error
            undo.pop_all()

    def _mount(
        self, layers: Sequence[StoredLayer], rootfs: Path, undo: contextlib.ExitStack
    ) -> None:
        visible = list(visible_layers(layers))
        root = next((each.record.root for each in visible if each.record.root is not None), None)
        place = self.overlays.mount([each.tree for each in visible], rootfs, root)
        undo.callback(_quietly, lambda: self.overlays.unmount(rootfs, place))

    def _copy(
        self, bundle: Path, layers: Sequence[StoredLayer], undo: contextlib.ExitStack
    ) -> None:
        copy = bundle / f"{PREFIX}{os.getpid()}"
        remove_tree(copy)
        undo.callback(_remove_quietly, copy)
        self.merge([(each.tree, each.record) for each in layers], copy)
        undo.callback(_remove_quietly, bundle / ROOTFS)
        os.rename(copy, bundle / ROOTFS)

    def discard(self, bundle: Path) -> None:
        """Undo a finished bundle, for a caller whose own next step failed.

        Raises:
            PlatformError: something of it stays.
        """
        rootfs = bundle / ROOTFS
        try:
            with contextlib.suppress(FileNotFoundError):  # config.json may be gone already
                (bundle / CONFIG).unlink()
            place = self.overlays.place_of(rootfs) if self.mounts else None
            if place is not None:
                self.overlays.unmount(rootfs, place)
            elif not self.mounts:
                remove_tree(rootfs)
        except OSError as error:
            raise PlatformError(f"bundle {bundle} cannot be undone: {error}") from error


def visible_layers(layers: Sequence[StoredLayer]) -> Sequence[StoredLayer]:
    """Topmost first, down to the first whose root hides all that is below.

    overlayfs does not look for an opaque mark on the root of a layer.
    """
    visible = []
    for layer in reversed(layers):
        visible.append(layer)
        if b"" in layer.record.opaque:
            break
    return visible


def _write_new(path: Path, content: bytes) -> None:
    """Appear whole, or fail if something is there."""
    temporary = path.with_name(f"{PREFIX}{os.getpid()}.json")
    temporary.write_bytes(content)
    try:
        os.chmod(temporary, 0o644)
        os.link(temporary, path)
    finally:
        temporary.unlink()


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error that led here is the one to tell
        remove_tree(path)


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(GuestError):  # the error that led here is the one to tell
        action()
