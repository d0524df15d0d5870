"""How long a token is used: counted on the boot clock from its receipt.

Source: docs/ARCHITECTURE.md, decision 3.
"""

import math
import random
import time
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from guest.deadline import boot_seconds

REFRESH_AT: Final = 0.8
"""Part of a life after which it is replaced, give or take `SPREAD`."""

SPREAD: Final = 0.1
LAST_CHANCE: Final = 30.0
"""Seconds before its end at which it is replaced at the latest, if it lives that long."""

T = TypeVar("T")


def wall_seconds() -> float:
    """This machine's wall clock, in seconds since 1970; compared with tokens, nothing else."""
    return time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Generic[T]):
    """A value with a life.

    Attributes:
        value: what is used.
        ends: boot seconds from which it is not used any more; infinite without an end.
        refresh_at: boot seconds at which a new one is fetched.
        is_doubted: the wall clock says that it is not valid, though its own times say so; it is
            replaced once, and what comes then is taken as it is.
    """

    value: T
    ends: float
    refresh_at: float
    is_doubted: bool = False

    @classmethod
    def begin(cls, value: T, life: float | None, *, is_doubted: bool = False) -> "Lease[T]":
        """Start the life of what was just received.

        Args:
            value: what is used.
            life: seconds; None without an end.
            is_doubted: see the class; without effect on a life that is over at once, which the
                next request replaces anyway.
        """
        now = boot_seconds()
        if life is None:
            return cls(value=value, ends=math.inf, refresh_at=math.inf, is_doubted=is_doubted)
        part = REFRESH_AT + random.uniform(-SPREAD, SPREAD)  # noqa: S311  # not a secret
        latest = max(life - LAST_CHANCE, life / 2)
        return cls(
            value=value,
            ends=now + life,
            refresh_at=now + min(part * life, latest),
            is_doubted=is_doubted and life > 0,
        )

    def is_over(self) -> bool:
        """Whether it must not be used for a new request."""
        return boot_seconds() >= self.ends

    def until_refresh(self) -> float:
        """Seconds until it is to be replaced; not positive if that is due."""
        return self.refresh_at - boot_seconds()
