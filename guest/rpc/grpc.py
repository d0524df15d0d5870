"""gRPC client and server for the same methods and routes. The door to `grpc`, imported late.

Source: docs/spec/protos.md 11; docs/spec/ttrpc.md 3 for the codes.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    GuestError,
    LimitError,
    PeerError,
    PlatformError,
    UnavailableError,
    UnreachableError,
)
from guest.protos.ttrpc_pb2 import Status as WireStatus
from guest.rpc.address import Address, TcpAddress, UnixAddress, parse_address, parse_tcp
from guest.rpc.budget import Budget
from guest.rpc.calls import Calls, Outcome
from guest.rpc.method import MAX_MESSAGE_LENGTH, Bound, CallContext, Metadata, Method, Q, R, Routes
from guest.rpc.server import DEFAULT_LIMITS, DRAIN_GRACE, CallObserver, ServerLimits
from guest.rpc.status import Code, Status, StatusError, error_of
from guest.ttrpc.envelope import read_status, wire_status

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata with the whole status."""

MAX_TEXT: Final = 2000
"""Longest status text, in characters: gRPC sends it as a header."""

MAX_CALLS: Final = 200
"""Calls of one channel at a time; the library's servers reset streams near their own limit."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_LENGTH),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_OF_TRANSPORT: Final = ("grpc-", "user-agent", "te", "content-type")
"""Starts of metadata keys that the transport adds by itself."""

log = logging.getLogger(__name__)


def parse_target(text: str) -> Address:
    """Parse what a gRPC service listens on: `ip:port`, or an address with a scheme.

    Raises:
        InvalidInputError: it is neither.
    """
    return parse_address(text) if "://" in text else parse_tcp(text)


def _target(address: Address) -> str:
    if isinstance(address, TcpAddress):
        return address.netloc
    if isinstance(address, UnixAddress):
        return f"{'unix-abstract' if address.abstract else 'unix'}:{address.path}"
    return f"vsock:{address.cid}:{address.port}"


class GrpcServer:
    """Serves routes with gRPC, plaintext; a `guest.rpc.server.Server`."""

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
        self._address = parse_target(address) if isinstance(address, str) else address
        self._routes = routes
        self._limits = limits
        self._calls = Calls(observer, limits.roll_back)
        self._budget = Budget(limits.payload)
        self._server: Any = None

    @property
    def address(self) -> str:
        """`ip:port`, or the address of a Unix socket."""
        if isinstance(self._address, TcpAddress):
            return self._address.netloc
        return str(self._address)

    async def bind(self) -> None:
        """See `Server.bind`: there is nothing to do before the port may accept."""
        await self._calls.open()

    async def publish(self) -> None:
        """See `Server.publish`."""
        import grpc.aio  # late: it is heavy

        options = (*_OPTIONS, ("grpc.max_concurrent_streams", self._limits.calls))
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((_generic_handler(self._handler),))
        try:
            port = server.add_insecure_port(_target(self._address))
        except RuntimeError as error:
            raise PlatformError(f"cannot listen on {self.address}") from error
        if isinstance(self._address, TcpAddress):
            self._address = TcpAddress(self._address.host, port)
        await server.start()
        self._server = server

    def _handler(self, path: str) -> Callable[[bytes, Any], Awaitable[bytes]] | None:
        """What serves a path; None makes the library answer UNIMPLEMENTED."""
        service, _, name = path.removeprefix("/").partition("/")
        try:
            bound = self._routes.find(service, name)
        except StatusError as error:
            if error.status.code != Code.NOT_FOUND:
                return None
            return _refuser(error.status)

        async def serve(payload: bytes, context: Any) -> bytes:
            return await self._serve(bound, payload, context)

        return serve

    async def _serve(self, bound: Bound[Message, Message], payload: bytes, context: Any) -> bytes:
        try:
            request = bound.method.request.FromString(payload)
        except ProtobufError:
            await _abort(context, Status(code=Code.INTERNAL, message="request cannot be parsed"))
        count = len(payload)
        await self._budget.hold(count)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def reply(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def end(_call: object) -> None:
            self._budget.give(count)

        call = self._calls.start(bound, request, _call_context(bound, context), reply, end)
        try:
            outcome = await answer
        except asyncio.CancelledError:
            call.leave()
            raise
        if isinstance(outcome, Status):
            await _abort(context, outcome)
        assert isinstance(outcome, Message)
        return outcome.SerializeToString()

    async def drain(self, grace: float = DRAIN_GRACE) -> None:
        """See `Server.drain`."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace)
        await self._calls.finish(0, grace)
        await self._calls.close()


def _generic_handler(find: Callable[[str], Callable[[bytes, Any], Awaitable[bytes]] | None]) -> Any:
    import grpc  # late: it is heavy

    class RoutesHandler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            behaviour = find(handler_call_details.method)
            return None if behaviour is None else grpc.unary_unary_rpc_method_handler(behaviour)

    return RoutesHandler()


def _call_context(bound: Bound[Message, Message], context: Any) -> CallContext:
    left = context.time_remaining()
    pairs = context.invocation_metadata() or ()
    return CallContext(
        deadline=bound.method.deadline(left),
        metadata=tuple(
            (key, value)
            for key, value in pairs
            if isinstance(value, str) and not key.startswith(_OF_TRANSPORT)
        ),
        peer=str(context.peer()),
        connection=str(context.peer()),
    )


def _refuser(status: Status) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def refuse(_payload: bytes, context: Any) -> bytes:
        await _abort(context, status)
        return b""

    return refuse


async def _abort(context: Any, status: Status) -> None:
    import grpc  # late: it is heavy

    codes = {code.value[0]: code for code in grpc.StatusCode}
    trailing: tuple[tuple[str, bytes], ...] = ()
    if status.detail is not None:
        trailing = ((DETAILS_KEY, wire_status(status).SerializeToString()),)
    code = codes.get(status.code, grpc.StatusCode.UNKNOWN)
    await context.abort(code, status.message[:MAX_TEXT], trailing)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTls:
    """How a server is known and we are known to it; all of it PEM.

    Attributes:
        roots: the authorities that count; None for the library's own.
        certificate: ours, or None.
        key: of our certificate.
        server_name: what its certificate must be for, if that is not the target's name.
    """

    roots: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None


class GrpcChannel:
    """A `guest.rpc.method.Channel` over gRPC, plaintext unless told otherwise."""

    def __init__(self, target: Address | str, *, tls: ChannelTls | None = None) -> None:
        """Nothing is opened yet.

        Args:
            target: where the server is.
            tls: None for plaintext.

        Raises:
            InvalidInputError: the target cannot be parsed.
        """
        self._address = parse_target(target) if isinstance(target, str) else target
        self._tls = tls
        self._channel: Any = None
        self._free = asyncio.Semaphore(MAX_CALLS)
        self._is_closed = False

    @property
    def address(self) -> str:
        """Where it leads."""
        if isinstance(self._address, TcpAddress):
            return self._address.netloc
        return str(self._address)

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """See `Channel.call`.

        A call that may be repeated is sent once more when the connection broke before its reply.
        """
        payload = request.SerializeToString()
        pairs = tuple((key.lower(), value) for key, value in metadata)
        try:
            data = await self._exchange(method.path, payload, deadline, pairs)
        except _LostError:
            if not method.idempotent or self._is_closed:
                raise
            data = await self._exchange(method.path, payload, deadline, pairs)
        try:
            return method.response.FromString(data)
        except ProtobufError as error:
            raise PeerError(f"answer to {method.path} cannot be parsed") from error

    async def _exchange(
        self, path: str, payload: bytes, deadline: Deadline, metadata: Metadata
    ) -> bytes:
        import grpc.aio  # late: it is heavy

        if self._is_closed:
            raise UnavailableError(f"channel to {self.address} is closed")
        if self._channel is None:
            self._channel = _open_channel(_target(self._address), self._tls)
        invoke = self._channel.unary_unary(path)
        async with deadline.limit(f"a free call to {path}"):
            await self._free.acquire()
        try:
            left = deadline.remaining()
            if left <= 0:
                raise DeadlineError(f"no time left to call {path}")
            timeout = None if math.isinf(left) else left
            data: bytes = await invoke(payload, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._error_of(error) from None
        except grpc.aio.UsageError as error:
            raise UnavailableError(f"channel to {self.address} was closed") from error
        finally:
            self._free.release()
        return data

    def _error_of(self, error: Any) -> GuestError:
        status = Status(code=error.code().value[0], message=error.details() or "")
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_KEY and isinstance(value, bytes):
                status = _with_detail(status, value)
        if status.detail is None and status.code == Code.UNAVAILABLE:
            kind = UnreachableError if "failed to connect" in status.message else _LostError
            return kind(f"{self.address}: {status.message}")
        if status.detail is None and status.code == Code.RESOURCE_EXHAUSTED:
            return LimitError(status.message)
        return error_of(status)

    async def close(self) -> None:
        """See `Channel.close`."""
        self._is_closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def _open_channel(target: str, tls: ChannelTls | None) -> Any:
    import grpc.aio  # late: it is heavy

    if tls is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.roots, tls.key, tls.certificate)
    name = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return grpc.aio.secure_channel(target, credentials, options=(*_OPTIONS, *name))


class _LostError(UnavailableError):
    """The library lost the connection, or the stream; the server said nothing."""


def _with_detail(status: Status, packed: bytes) -> Status:
    try:
        read = read_status(WireStatus.FromString(packed))
    except ProtobufError:  # somebody else's idea of details
        return status
    return Status(code=status.code, message=status.message, detail=read.detail)
