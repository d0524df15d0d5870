"""Who is told what pulls do, to count it; nothing is said of images, digests or places.

Source: docs/ARCHITECTURE.md, decisions 6 and 16.
"""

import asyncio
from enum import StrEnum
from typing import Protocol

from guest.errors import GuestError
from guest.rpc.status import Code, code_of
from image_pull.layers.record import Jail


class LayerOutcome(StrEnum):
    """How one layer of a pull ended."""

    STORED = "stored"
    """It was fetched, verified and unpacked."""
    REUSED = "reused"
    """It was in the store."""
    FAILED = "failed"


class PullObserver(Protocol):
    """Called on the event loop; must neither block nor raise."""

    def jail_chosen(self, jail: Jail) -> None:
        """An unpack server started, and its workers have this jail."""

    def pull_planned(self, layers: int, size: int) -> None:
        """A pull begins to fetch so many layers, of so many bytes, which the store lacks."""

    def bytes_received(self, count: int) -> None:
        """So many bytes of a blob came from a registry."""

    def layer_ended(
        self, outcome: LayerOutcome, code: Code, seconds: float, tar_bytes: int
    ) -> None:
        """One layer is had or is not.

        Args:
            outcome: how it ended.
            code: exact status; OK unless it failed.
            seconds: from its key to the store, waiting included.
            tar_bytes: what was unpacked for it; 0 unless it was stored.
        """

    def pull_ended(self, code: Code, seconds: float) -> None:
        """A whole pull ended with this exact status."""


class Unobserved:
    """An observer for callers who count nothing."""

    def jail_chosen(self, jail: Jail) -> None:
        """Nothing."""

    def pull_planned(self, layers: int, size: int) -> None:
        """Nothing."""

    def bytes_received(self, count: int) -> None:
        """Nothing."""

    def layer_ended(
        self, outcome: LayerOutcome, code: Code, seconds: float, tar_bytes: int
    ) -> None:
        """Nothing."""

    def pull_ended(self, code: Code, seconds: float) -> None:
        """Nothing."""


def code_after(error: BaseException) -> Code:
    """The status of what ended with this exception."""
    if isinstance(error, asyncio.CancelledError):
        return Code.CANCELLED
    return code_of(error) if isinstance(error, GuestError) else Code.INTERNAL
