"""What a server is, and who is told of the calls it served.

Source: CONTRIBUTING.md 5, 8 and 9.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import msgspec

from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.status import Code

DRAIN_GRACE: Final = 5.0
"""Seconds that calls under way have to finish when a server stops; the stop takes twice that."""


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a server bears; the defaults are the specification's.

    Attributes:
        connections: how many at a time; further ones wait in the backlog.
        calls: how many on one connection; beyond, it is not read from.
        payload: bytes of requests held over all connections; beyond, nothing is read.
        stall: seconds after which a peer that does not read is dropped.
        frame: seconds in which a frame that was begun must be complete while it is read.
        roll_back: seconds for which a handler that undoes its work is left alone.
    """

    connections: int = 128
    calls: int = 256
    payload: int = 64 * 1024 * 1024
    stall: float = 30.0
    frame: float = 60.0
    roll_back: float = 10.0


DEFAULT_LIMITS: Final = ServerLimits()


class CallObserver(Protocol):
    """Who counts calls; the log line is written by the server itself."""

    def call_ended(
        self, method_path: str, code: Code, seconds: float, detail: ErrorDetail | None
    ) -> None:
        """A known method was called and its outcome is decided.

        Args:
            method_path: `/<service>/<name>`.
            code: what the caller was told; CANCELLED when it was gone.
            seconds: since the request was complete.
            detail: the cause of a failure, where it is known.
        """
        ...


class Server(Protocol):
    """One address on which routes are served."""

    @property
    def address(self) -> str:
        """Where clients connect; after `publish` with the port that was chosen for port 0."""
        ...

    async def bind(self) -> None:
        """Do all that can fail and that no client sees.

        Raises:
            ConfigError: the address can never work.
            PlatformError: the system refuses.
        """
        ...

    async def publish(self) -> None:
        """Be reachable and serve.

        Raises:
            PlatformError: the system refuses.
        """
        ...

    async def drain(self, grace: float = DRAIN_GRACE) -> None:
        """Take no new calls, give those under way `grace` seconds, then close.

        Handlers that roll back or finish get as much again. May be called again, and without
        `publish` or `bind` before.
        """
        ...


@asynccontextmanager
async def serving(server: Server, *, grace: float = DRAIN_GRACE) -> AsyncIterator[Server]:
    """Bind, publish, and drain at the end of the block."""
    try:
        await server.bind()
        await server.publish()
        yield server
    finally:
        await server.drain(grace)
