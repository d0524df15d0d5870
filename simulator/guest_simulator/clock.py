"""A wall clock that a test can move.

The simulator dates cookies and tokens with it; nothing waits on it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Clock:
    """Seconds since the epoch, with an offset.

    Attributes:
        offset: seconds added to the source; change it at any time.
        source: where the time comes from.
    """

    offset: float = 0.0
    source: Callable[[], float] = time.time

    def now(self) -> float:
        """The time, in seconds since the epoch."""
        return self.source() + self.offset
