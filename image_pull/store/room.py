"""Room in the store: what an image needs at least, and what can go for it.

A manifest says how long the blobs are, which is what the image needs at least; nothing of it says
how much they unpack to. What that leaves is found when the store is full: then all that nobody
uses goes, and the layers that are missing are tried once more.

Source: docs/spec/image-pull.md, sections 12.3-13 and 16 (c).
"""

import errno
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from guest.deadline import boot_seconds
from guest.errors import GuestError, LimitError, PlatformError
from image_pull.layers.pipeline import NoSpaceError
from image_pull.store.layers import LayerKey, LayerStore
from image_pull.store.meta import Store
from image_pull.store.overlay import Overlays

log = logging.getLogger(__name__)

EXPANSION: Final = 4
"""Times the length of the blobs that unused layers make room for; refused is below once."""

KEEP_SECONDS: Final = 900.0
"""Seconds that a layer stays after its last pull once no root file system shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a pull has before it.

    Attributes:
        needed: bytes of the blobs that are not in the store.
        missing: how many they are.
        free: bytes that the store can still take.
        collected: layers that were removed.
    """

    needed: int
    missing: int
    free: int
    collected: int


class Room:
    """The space of one store. All methods block."""

    def __init__(
        self,
        *,
        store: Store,
        layers: LayerStore,
        overlays: Overlays,
        keep_seconds: float = KEEP_SECONDS,
        max_bytes: int | None = None,
    ) -> None:
        """Look after a store.

        Args:
            store: whose file system is looked at.
            layers: in it.
            overlays: whose layers are in use.
            keep_seconds: how long an unused layer stays when nothing needs its room.
            max_bytes: most bytes of one layer, if that is limited.
        """
        self._store = store
        self._layers = layers
        self._overlays = overlays
        self._keep = keep_seconds
        self._max_bytes = max_bytes

    @contextmanager
    def holding(self, wanted: Mapping[LayerKey, int]) -> Iterator[None]:
        """Within the block none of these layers is removed."""
        with self._layers.holding(wanted):
            yield

    def make(self, wanted: Mapping[LayerKey, int], *, everything: bool = False) -> Forecast:
        """See that an image can fit; removes layers that nobody uses, the oldest first.

        Args:
            wanted: the image's layers with the sizes of their blobs; they are held.
            everything: remove all that nobody uses, however much that is.

        Raises:
            LimitError: it cannot fit, with what it needs and what there is.
            PlatformError: the store cannot be looked at.
        """
        if everything:
            self._overlays.reclaim()
        missing = self._missing(wanted)
        needed = sum(missing)
        largest = max(missing, default=0)
        if self._max_bytes is not None and largest > self._max_bytes:
            raise LimitError(
                f"a layer has {largest} bytes, more than the {self._max_bytes} bytes of "
                "max_unpacked_bytes"
            )
        collected = self._collect(math.inf if everything else needed * EXPANSION)
        free = self.free()
        if needed > free:
            raise _too_little(needed, free)
        return Forecast(needed=needed, missing=len(missing), free=free, collected=collected)

    def lack(self, wanted: Mapping[LayerKey, int]) -> LimitError:
        """The error for an image whose layers turned out not to fit once they are unpacked.

        Raises:
            PlatformError: the store cannot be looked at.
        """
        return _too_little(sum(self._missing(wanted)), self.free())

    def tidy(self) -> None:
        """Remove what mounts that are gone had, and layers that are old; tried again if it fails.

        It runs when nobody pulls: the containers of a pod may go long before the pod does.
        """
        try:
            self._overlays.reclaim()
            self._collect(0)
        except (GuestError, OSError) as error:
            log.warning("image store cannot be tidied", extra={"error": str(error)})

    def _missing(self, wanted: Mapping[LayerKey, int]) -> list[int]:
        return [size for key, size in wanted.items() if not self._layers.has(key)]

    def free(self) -> int:
        """Bytes that the store can take.

        Raises:
            PlatformError: it cannot be looked at.
        """
        try:
            status = os.statvfs(self._store.root)
        except OSError as error:
            raise PlatformError(f"store cannot be looked at: {error.strerror}") from error
        return status.f_bavail * status.f_frsize

    def _collect(self, wanted: float) -> int:
        """Remove unused layers that are old, and all that stand in the way of `wanted` bytes."""
        count, now = 0, boot_seconds()
        for last_use, name in self._layers.unheld():
            is_old = now - last_use >= self._keep
            if not is_old and self.free() >= wanted:
                break
            try:
                count += self._layers.collect(name, self._overlays.used_layers)
            except PlatformError as error:
                log.warning("unused layer stays", extra={"error": str(error)})
        if count:
            log.info("unused layers removed", extra={"layers": count})
        return count


def is_lack_of_room(error: GuestError) -> bool:
    """Whether an error says, or was caused by, a full store."""
    cause: BaseException | None = error
    while cause is not None:
        is_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or isinstance(cause, NoSpaceError):
            return True
        cause = cause.__cause__
    return False


def _too_little(needed: int, free: int) -> LimitError:
    return LimitError(f"image needs at least {needed} bytes, the store has {free} bytes free")
