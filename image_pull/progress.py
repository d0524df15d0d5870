"""How far a pull is, in the log: bytes, rate, layers, and the time that its caller gives it.

Source: docs/ARCHITECTURE.md, decisions 4 and 16.
"""

import logging
import math
from typing import Final, Protocol

from guest.deadline import Deadline, boot_seconds

log = logging.getLogger(__name__)

LOG_SECONDS: Final = 10.0
"""Seconds between two lines about one pull."""


class Progress(Protocol):
    """Who wants to see a pull move; called on the event loop, must not block."""

    def layer_bytes(self, digest: str, done: int, total: int) -> None:
        """`done` of `total` bytes of a blob have come."""

    def layer_state(self, digest: str, state: str) -> None:
        """A blob is now `waiting`, `downloading`, `stored` or `reused`."""


class LoggedProgress:
    """Tells the log, now and then, and whoever else wants to know, always."""

    def __init__(
        self,
        reference: str,
        *,
        layers: int,
        needed: int,
        deadline: Deadline,
        inner: Progress | None,
    ) -> None:
        """Begin.

        Args:
            reference: what is pulled.
            layers: how many it has.
            needed: bytes of those that the store lacks.
            deadline: the caller's.
            inner: told the same.
        """
        self._reference = reference
        self._layers = layers
        self._needed = needed
        self._deadline = deadline
        self._inner = inner
        self._started = boot_seconds()
        self._said = self._started
        self._done: dict[str, int] = {}
        self._ready: set[str] = set()
        self._say("image pull begins")

    def layer_bytes(self, digest: str, done: int, total: int) -> None:
        """Count, and say so when the last line is old."""
        self._done[digest] = done
        if self._inner is not None:
            self._inner.layer_bytes(digest, done, total)
        if boot_seconds() - self._said >= LOG_SECONDS:
            self._say("image pull goes on")

    def layer_state(self, digest: str, state: str) -> None:
        """Count finished layers."""
        if state in ("stored", "reused"):
            self._ready.add(digest)
        if self._inner is not None:
            self._inner.layer_state(digest, state)

    def end(self) -> None:
        """Say what it came to."""
        self._say("image layers are there")

    def _say(self, what: str) -> None:
        now = boot_seconds()
        self._said = now
        done, seconds = sum(self._done.values()), now - self._started
        left = self._deadline.remaining()
        log.info(
            what,
            extra={
                "reference": self._reference,
                "bytes": done,
                "bytes_needed": self._needed,
                "bytes_per_second": round(done / seconds) if seconds > 0.001 else 0,
                "layers": len(self._ready),
                "layers_needed": self._layers,
                "seconds_left": None if math.isinf(left) else round(left, 1),
            },
        )
