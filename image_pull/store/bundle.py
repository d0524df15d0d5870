"""A bundle: `rootfs`, mounted or copied together, and `config.json`; all of it or nothing.

Source: docs/spec/image-pull.md, sections 1.4, 14 and 15.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.errors import GuestError, InvalidInputError, PlatformError
from image_pull.layers.record import LayerRecord
from image_pull.layers.remove import remove_tree
from image_pull.store import syscalls
from image_pull.store.claim import Claim, claimed, has_claim
from image_pull.store.layers import StoredLayer
from image_pull.store.overlay import Overlays

log = logging.getLogger(__name__)

ROOTFS: Final = "rootfs"
CONFIG: Final = "config.json"
COPY: Final = ".image-pull-rootfs"
MAX_STACKED: Final = 16
"""Most mounts on one root directory that are undone for a process that died."""

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
        """Return if nothing of a bundle is there, or what was there is a dead pull's and gone.

        Raises:
            InvalidInputError: not an absolute path, or something is there.
            PlatformError: it cannot be looked at.
        """
        if not bundle.is_absolute():
            raise InvalidInputError(f"bundle path {str(bundle)[:200]!r} is not absolute")
        try:
            if has_claim(bundle):
                with claimed(bundle) as claim:
                    self._recover(bundle, claim)
                    claim.end()
            _check_empty(bundle)
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
        try:
            bundle.mkdir(parents=True, exist_ok=True, mode=0o755)
            with claimed(bundle) as claim, contextlib.ExitStack() as undo:
                undo.callback(_quietly, claim.end)
                self._make(bundle, layers, spec, claim, undo)
                claim.end()
                undo.pop_all()
        except OSError as error:
            raise PlatformError(f"bundle {bundle} cannot be made: {error}") from error

    def _make(
        self,
        bundle: Path,
        layers: Sequence[StoredLayer],
        spec: Callable[[Path], bytes],
        claim: Claim,
        undo: contextlib.ExitStack,
    ) -> None:
        with contextlib.suppress(FileNotFoundError):  # as it should be
            _check_empty(bundle)
        claim.start()
        rootfs = bundle / ROOTFS
        if not rootfs.is_dir():
            rootfs.mkdir(mode=0o755)
            undo.callback(_remove_quietly, rootfs)
        if self.mounts:
            self._mount(layers, rootfs, undo)
        else:
            self._copy(bundle, layers, undo)
        claim.publish(bundle / CONFIG, spec(rootfs))
        undo.callback(_quietly, lambda: os.unlink(bundle / CONFIG))

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
        copy = bundle / COPY
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
        try:
            with claimed(bundle) as claim:
                claim.start(undoing=True)
                with contextlib.suppress(FileNotFoundError):  # config.json may be gone already
                    (bundle / CONFIG).unlink()
                self._take_down(bundle)
                claim.end()
        except FileNotFoundError:
            return
        except OSError as error:
            raise PlatformError(f"bundle {bundle} cannot be undone: {error}") from error

    def sweep(self) -> None:
        """Remove the bundles that a process which died had begun and mounted."""
        with contextlib.suppress(OSError):  # a pull into such a bundle tells what is wrong
            for target in self.overlays.targets():
                if has_claim(target.parent):
                    with contextlib.suppress(GuestError):  # as above
                        self.check_free(target.parent)

    def _recover(self, bundle: Path, claim: Claim) -> None:
        """Remove what a process that died had made; nothing that was there before it."""
        if not claim.is_leftover:
            return
        log.info("bundle that was never finished is removed", extra={"bundle": str(bundle)})
        if claim.was_undoing or claim.is_mine(bundle / CONFIG):
            with contextlib.suppress(FileNotFoundError):  # it was gone already
                os.unlink(bundle / CONFIG)
        remove_tree(bundle / COPY)
        self._take_down(bundle)

    def _take_down(self, bundle: Path) -> None:
        rootfs = bundle / ROOTFS
        for _ in range(MAX_STACKED):
            if not os.path.ismount(rootfs):
                break
            place = self.overlays.place_of(rootfs)
            if place is not None:
                self.overlays.unmount(rootfs, place)
            else:
                syscalls.unmount(os.fsencode(rootfs), detach=True)
        if os.path.ismount(rootfs):
            raise OSError(f"{rootfs} stays mounted")
        if not self.mounts:
            remove_tree(rootfs)


def _check_empty(bundle: Path) -> None:
    """Return or raise FileNotFoundError if nothing of a bundle is there.

    Raises:
        InvalidInputError: something is.
        OSError: it cannot be looked at.
    """
    if os.path.lexists(bundle / CONFIG):
        raise InvalidInputError(f'OCI config file already exists: "{bundle / CONFIG}"')
    with os.scandir(bundle / ROOTFS) as entries:
        if next(entries, None) is not None:
            raise InvalidInputError(f"{bundle / ROOTFS} is not empty")
    if os.path.ismount(bundle / ROOTFS):
        raise InvalidInputError(f"{bundle / ROOTFS} is a mount point already")


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


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error that led here is the one to tell
        remove_tree(path)


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(GuestError, OSError):  # the error that led here is the one to tell
        action()
