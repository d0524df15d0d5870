"""The KBS: `async with Kbs() as kbs`."""

import ssl
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from guest_simulator.control import Control
from guest_simulator.faults import Faults
from guest_simulator.kbs.administration import ENDPOINTS, Administration
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.failures import KbsFailure
from guest_simulator.kbs.handshake import Handshake
from guest_simulator.kbs.jws import PublicKey
from guest_simulator.kbs.resources import Resources
from guest_simulator.kbs.store import DirectoryStore, MemoryStore, ResourceStore
from guest_simulator.reply import Reply
from guest_simulator.request_log import RequestLog
from guest_simulator.service import HttpService, Incoming, TooLargeError

PREFIX: Final = "/kbs/v0/"
METHODS: Final = ("GET", "POST", "PUT", "DELETE")
KEEP_ALIVE: Final = 5.0
"""Seconds an idle connection stays open. Source: docs/spec/kbs-protocol.md §2."""

NOT_FOUND: Final = Reply(status=404)
NOT_ALLOWED: Final = Reply(status=405)


class Kbs:
    """A key broker service on loopback.

    Attributes:
        behaviour: its knobs.
        signer: the key that signs its tokens.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        base_path: str = "",
        resources: Path | None = None,
        signer: ec.EllipticCurvePrivateKey | None = None,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        """Make one that does not listen yet.

        Args:
            behaviour: knobs; the default verifies sample evidence and allows everything.
            host: address to bind.
            port: 0 for any.
            tls: server context, see `guest_simulator.cert`; None for plain HTTP.
            base_path: path before `/kbs/v0`, e.g. `/trustee`.
            resources: directory of resources (`LocalFs` layout); None keeps them in memory.
            signer: P-256 key of the tokens; None makes one.
            keep_alive: seconds an idle connection stays open.
        """
        self.behaviour = behaviour or Behaviour()
        self.signer = signer or ec.generate_private_key(ec.SECP256R1())
        self._base_path = base_path.rstrip("/")
        store: ResourceStore = DirectoryStore(resources) if resources else MemoryStore()
        self._handshake = Handshake(self.behaviour, self.signer)
        self._resources = Resources(
            self.behaviour, self._handshake.sessions, store, self.signer.public_key()
        )
        self._administration = Administration(self.behaviour)
        self._service = HttpService(
            self._handle, host=host, port=port, tls=tls, keep_alive=keep_alive
        )

    async def __aenter__(self) -> Self:
        await self._service.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._service.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        """What clients are configured with; no slash at the end."""
        return self._service.url + self._base_path

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._service.port

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self._service.faults

    @property
    def requests(self) -> RequestLog:
        """What was asked."""
        return self._service.requests

    @property
    def attestations(self) -> int:
        """How often evidence was verified and led to a new token."""
        return self._handshake.attestations

    @property
    def handshakes(self) -> int:
        """How many challenges were given."""
        return self._handshake.handshakes

    def put_resource(self, key: str, value: bytes) -> None:
        """Store a resource without asking for an administrator.

        Args:
            key: `repository/type/tag`.
            value: its bytes.

        Raises:
            ValueError: the key is no such name.
        """
        self._resources.put(key, value)

    def delete_resource(self, key: str) -> bool:
        """Remove one; whether it was there."""
        return self._resources.delete(key)

    def trust(self, *signers: PublicKey) -> None:
        """Take the tokens of these signers too."""
        self.behaviour.trusted_signers += signers

    def forget_sessions(self) -> None:
        """Lose all sessions, as a restart does."""
        self._handshake.sessions.clear()

    def allow_control(self) -> None:
        """Let another process steer this server, see `guest_simulator.control`."""
        behaviour = self.behaviour
        self._service.control = Control(
            self.faults,
            self.requests,
            lambda: {"attestations": self.attestations, "handshakes": self.handshakes},
            {
                "clock_offset": lambda value: setattr(behaviour.clock, "offset", value),
                "token_seconds": lambda value: setattr(behaviour, "token_seconds", int(value)),
                "session_seconds": lambda value: setattr(behaviour, "session_seconds", value),
                "prepare_answers": lambda value: setattr(behaviour, "prepare_answers", bool(value)),
            },
        ).answer

    async def _handle(self, request: Incoming) -> Reply:
        if request.path == "/healthz":
            return Reply() if request.method in ("GET", "HEAD") else NOT_ALLOWED
        if request.path == "/metrics":
            return self._metrics() if request.method == "GET" else NOT_ALLOWED
        prefix = self._base_path + PREFIX
        if not request.path.startswith(prefix):
            return NOT_FOUND
        if request.method not in METHODS:
            return NOT_ALLOWED
        plugin, *path = request.path.removeprefix(prefix).split("/")
        try:
            return await self._dispatch(request, plugin, tuple(path))
        except KbsFailure as failure:
            return failure.reply()
        except TooLargeError:
            text = f"Payload exceeds {self.behaviour.payload_limit} bytes".encode()
            return Reply(status=413, headers={"Content-Type": "text/plain"}, body=text)

    async def _dispatch(self, request: Incoming, plugin: str, path: tuple[str, ...]) -> Reply:
        if (request.method, plugin) == ("POST", "auth"):
            return await self._handshake.auth(request)
        if (request.method, plugin) == ("POST", "attest"):
            return await self._handshake.attest(request)
        if (request.method, plugin) in ENDPOINTS:
            return await self._administration.answer(request, plugin, path)
        return await self._resources.answer(request, plugin, path)

    def _metrics(self) -> Reply:
        text = f"kbs_attestations_total {self.attestations}\n"
        headers = {"Content-Type": "text/plain; version=0.0.4"}
        return Reply(headers=headers, body=text.encode())
