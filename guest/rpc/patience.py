"""A channel whose far end may be restarting: who answered before, and is gone, is waited for.

The service manager starts a daemon that ended anew within seconds; who asks in between is to
notice nothing but latency.

Source: docs/spec/confidential-data-hub.md 6.2, docs/spec/api-server-rest.md 3,
docs/spec/podvm-image.md 4.
"""

from typing import Final

from guest.deadline import Deadline
from guest.errors import UnreachableError
from guest.retry import Backoff
from guest.rpc.method import Channel, Metadata, Method, Q, R

RESTART_SECONDS: Final = 30.0
"""Seconds that a daemon which answered before, and is gone, has to come back."""

BACKOFF: Final = Backoff(first=0.1, most=1.0, attempts=1000)


class PatientChannel:
    """A channel that waits for a daemon's restart, within the caller's deadline.

    Only calls that found nobody listening are repeated: such a call was never sent.

    Args:
        channel: leads to the daemon.
        seconds: that it has to come back.
    """

    def __init__(self, channel: Channel, *, seconds: float = RESTART_SECONDS) -> None:
        self._channel = channel
        self._seconds = seconds
        self._has_answered = False

    @property
    def address(self) -> str:
        """Of the daemon."""
        return self._channel.address

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """One call.

        Raises:
            UnreachableError: nobody listens: at once where nobody ever did, else after the wait.
            GuestError: as the channel's call.
        """
        attempt, restarted = 1, deadline.within(self._seconds)
        while True:
            try:
                answer = await self._channel.call(
                    method, request, deadline=deadline, metadata=metadata
                )
            except UnreachableError:
                if not (self._has_answered and await BACKOFF.pause(attempt, restarted)):
                    raise
                attempt += 1
            else:
                self._has_answered = True
                return answer

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()
