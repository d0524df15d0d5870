"""The ttRPC server: accepts, bounds, drains.

Source: docs/spec/ttrpc.md 7, 9; CONTRIBUTING.md 5 and 8.
"""

import asyncio
import contextlib
import logging
from socket import socket as system_socket
from typing import Final

from guest.rpc.address import Address, parse_address
from guest.rpc.budget import Budget
from guest.rpc.calls import Calls
from guest.rpc.listener import listener_for
from guest.rpc.method import Routes
from guest.rpc.server import DEFAULT_LIMITS, DRAIN_GRACE, CallObserver, ServerLimits
from guest.ttrpc.session import Session

FIRST_BACK_OFF: Final = 0.001
"""Seconds to wait after a failed accept; doubled up to `LONGEST_BACK_OFF`."""

LONGEST_BACK_OFF: Final = 1.0

CLOSE_SECONDS: Final = 1.0
"""Seconds that the last answers have to leave when the server stops."""

LAST_ANSWER_SECONDS: Final = 0.1
"""Seconds between the last answer and the close of a connection.

Compat: a Rust 0.9.0 client handles an answer in a task of its own and fails all its calls at the
end of the stream: an answer that the end follows at once may be lost.
"""

log = logging.getLogger(__name__)


class TtrpcServer:
    """Serves routes on one address; a `guest.rpc.server.Server`."""

    def __init__(
        self,
        routes: Routes,
        address: Address | str,
        *,
        observer: CallObserver | None = None,
        limits: ServerLimits = DEFAULT_LIMITS,
    ) -> None:
        """Nothing is opened yet.

        Raises:
            InvalidInputError: the address cannot be parsed.
        """
        parsed = parse_address(address) if isinstance(address, str) else address
        self._routes = routes
        self._listener = listener_for(parsed)
        self._limits = limits
        self._calls = Calls(observer, limits.roll_back)
        self._budget = Budget(limits.payload)
        self._free = asyncio.Semaphore(limits.connections)
        self._sessions: set[Session] = set()
        self._all_gone = asyncio.Event()
        self._accepting: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where clients connect; after `publish` with the port that was chosen for port 0."""
        return str(self._listener.address)

    async def bind(self) -> None:
        """See `Server.bind`: a Unix socket listens under a temporary name."""
        self._listener.bind()
        await self._calls.open()

    async def publish(self) -> None:
        """See `Server.publish`: the socket gets its name, and connections are accepted."""
        self._listener.publish()
        self._accepting = self._calls.spawn(self._accept(), name=f"accept {self.address}")

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_BACK_OFF
        while True:
            await self._free.acquire()
            try:
                sock, _peer = await loop.sock_accept(self._listener.socket)
            except OSError as error:  # out of descriptors or memory
                self._free.release()
                log.warning("accept failed", extra={"error": str(error)})
                await asyncio.sleep(delay)
                delay = min(LONGEST_BACK_OFF, delay * 2)
                continue
            except asyncio.CancelledError:
                self._free.release()
                raise
            delay = FIRST_BACK_OFF
            await self._begin_session(sock)

    async def _begin_session(self, sock: system_socket) -> None:
        session = Session(
            self._routes, self._calls, self._budget, self._limits, self._session_ended
        )
        self._sessions.add(session)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: session, sock)
        except OSError as error:  # the peer was quick to go
            log.debug("connection lost at once", extra={"error": str(error)})
            sock.close()
            self._session_ended(session)

    def _session_ended(self, session: Session) -> None:
        if session in self._sessions:
            self._sessions.remove(session)
            self._free.release()
        if not self._sessions:
            self._all_gone.set()

    async def drain(self, grace: float = DRAIN_GRACE) -> None:
        """See `Server.drain`."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        self._listener.close()
        for session in tuple(self._sessions):
            session.drain()
        await self._calls.finish(grace, grace)
        last = max((session.written_at for session in self._sessions), default=0.0)
        await asyncio.sleep(last + LAST_ANSWER_SECONDS - asyncio.get_running_loop().time())
        await self._close_sessions()
        await self._calls.close()

    async def _close_sessions(self) -> None:
        for close in (Session.close, Session.abort):
            self._all_gone.clear()
            for session in tuple(self._sessions):
                close(session)
            if self._sessions:
                with contextlib.suppress(TimeoutError):  # the next step is harder
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._all_gone.wait()
