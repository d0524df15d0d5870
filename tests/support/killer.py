"""Ends a process by SIGKILL before, amid or after one of the calls that change something."""

import os
import signal
from collections.abc import Callable
from typing import Any

Counts = Callable[..., bool]
"""From a call's arguments: whether it changes something."""


class Killer:
    """Counts calls, and kills this process at one of them.

    Args:
        point: number of that call, from 1; 0 for none.
        mode: `before`, `after` or, for a call that writes, `half`: after half of its data.

    Attributes:
        names: of the calls so far.
    """

    def __init__(self, point: int, mode: str) -> None:
        self.names: list[str] = []
        self._point = point
        self._mode = mode

    def count(self, owner: Any, *names: str, counts: Counts = lambda *_, **__: True) -> None:
        """From here on calls of these functions of `owner` count."""
        for name in names:
            setattr(owner, name, self._wrapped(name, getattr(owner, name), counts))

    def _wrapped(
        self, name: str, original: Callable[..., Any], counts: Counts
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not counts(*arguments, **named):
                return original(*arguments, **named)
            self.names.append(name)
            if len(self.names) != self._point:
                return original(*arguments, **named)
            try:
                if self._mode == "half":
                    handle, data, *rest = arguments
                    original(handle, data[: len(data) // 2], *rest)
                elif self._mode == "after":
                    original(*arguments, **named)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        return call
