"""The contract of every call: methods, channels, handlers and routes. Sans-I/O.

A `Method` is one typed value that client, server and every transport share. Code above a
`Channel` cannot tell ttRPC, gRPC and the in-process transport apart: `tests/contract` proves it.

Source: docs/spec/ttrpc.md 6, docs/spec/protos.md.
"""

from collections.abc import Awaitable, Callable, Hashable
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar, cast

import msgspec
from google.protobuf.message import Message

from guest.deadline import Deadline
from guest.rpc.status import Code, Status, StatusError

MAX_MESSAGE_LENGTH: Final = 4 * 1024 * 1024
"""Most bytes of one encoded ttRPC Request or Response; 4,194,292 bytes of a resource fit."""

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds that a call has where neither the caller nor the method says otherwise."""

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class OnCancel(Enum):
    """What becomes of a handler whose caller went away or ran out of time."""

    ABORT = "abort"
    """Cancelled at once."""
    ROLL_BACK = "roll-back"
    """Cancelled, then shielded for at most 10 s while it undoes what it began."""
    FINISH = "finish"
    """Runs to its end; the answer is dropped."""


class Method(msgspec.Struct, Generic[Q, R], frozen=True):
    """One remote procedure.

    Attributes:
        service: package and service, without a leading slash (`api.GetResourceService`).
        name: the bare name, as spelled on the wire.
        request: class of the request message.
        response: class of the response message.
        on_cancel: what a server does when the caller goes away.
        timeout: seconds for a call whose caller sends none; None is no total.
        idempotent: a client may send it again when the connection broke before the answer.
    """

    service: str
    name: str
    request: type[Q]
    response: type[R]
    on_cancel: OnCancel = OnCancel.ABORT
    timeout: float | None = DEFAULT_TIMEOUT
    idempotent: bool = True

    @property
    def path(self) -> str:
        """`/<service>/<name>`: the gRPC path, and the name in logs."""
        return f"/{self.service}/{self.name}"

    def deadline(self, caller_seconds: float | None) -> Deadline:
        """When a server must have answered; `caller_seconds` is what the caller sent, if it did."""
        seconds = self.timeout if caller_seconds is None else caller_seconds
        return Deadline.unlimited() if seconds is None else Deadline.after(seconds)


Metadata = tuple[tuple[str, str], ...]
"""Repeated keys are allowed and keep their order; keys are lower case."""


class CallContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler knows of its call besides the request.

    Attributes:
        deadline: when the answer must be out.
        metadata: what the caller sent along.
        peer: who called, for the log: `uid=0 pid=42`, an address, or `in-process`.
        connection: equal for calls of one connection, to share something scarce among them; None
            where that is not known.
    """

    deadline: Deadline
    metadata: Metadata = ()
    peer: str = "in-process"
    connection: Hashable = None


Handler = Callable[[Q, CallContext], Awaitable[R]]


class Channel(Protocol):
    """A way to call one service's methods; many calls at a time."""

    @property
    def address(self) -> str:
        """Where it leads, for messages: `unix:///run/x.sock`, `127.0.0.1:50002`, `in-process`."""
        ...

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """Send one request and wait for its response.

        Raises:
            UnreachableError: no connection could be made; nothing was sent.
            UnavailableError: the connection broke before the response.
            DeadlineError: no response by `deadline`, or the server said DEADLINE_EXCEEDED.
            LimitError: the request or the response is longer than the transport takes.
            PeerError: the server failed without a class, or broke the protocol.
            GuestError: the class that fits the server's status (`guest.rpc.status.error_of`).
        """
        ...

    async def close(self) -> None:
        """Let go of connections; calls under way fail. May be called again."""
        ...


class Bound(msgspec.Struct, Generic[Q, R], frozen=True):
    """A method and what serves it."""

    method: Method[Q, R]
    handler: Handler[Q, R]


class Routes:
    """Which handler serves which method; built once, then read only."""

    def __init__(self) -> None:
        self._bound: dict[tuple[str, str], Bound[Message, Message]] = {}
        self._declared: set[tuple[str, str]] = set()
        self._services: set[str] = set()

    def bind(self, method: Method[Q, R], handler: Handler[Q, R]) -> None:
        """Serve `method` with `handler`; binding one twice is a bug."""
        key = (method.service, method.name)
        assert key not in self._bound, f"{method.path} is bound twice"
        self._services.add(method.service)
        self._bound[key] = cast("Bound[Message, Message]", Bound(method, handler))

    def declare(self, method: Method[Q, R]) -> None:
        """Know `method` without serving it: callers get NOT_FOUND `... is not supported`."""
        self._services.add(method.service)
        self._declared.add((method.service, method.name))

    def find(self, service: str, name: str) -> Bound[Message, Message]:
        """What serves `/service/name`.

        Raises:
            StatusError: INVALID_ARGUMENT for an unknown service, UNIMPLEMENTED for an unknown
                method, NOT_FOUND for a declared one; texts of docs/spec/ttrpc.md 6.1.
        """
        bound = self._bound.get((service, name))
        if bound is not None:
            return bound
        if service not in self._services:
            status = Status(code=Code.INVALID_ARGUMENT, message=f"{service} service does not exist")
        elif (service, name) in self._declared:
            status = Status(code=Code.NOT_FOUND, message=f"/{service}/{name} is not supported")
        else:
            status = Status(code=Code.UNIMPLEMENTED, message=f"{name} method")
        raise StatusError(status)

    def methods(self) -> tuple[Method[Message, Message], ...]:
        """All bound methods, for transports that register them one by one."""
        return tuple(bound.method for bound in self._bound.values())
