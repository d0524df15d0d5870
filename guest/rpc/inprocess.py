"""The channel to routes of the same process; it encodes, limits, times out and cancels like others.

Source: CONTRIBUTING.md 5; docs/spec/ttrpc.md 2, 5, 9.
"""

import asyncio
from typing import Final

from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message

from guest.deadline import Deadline
from guest.errors import InvalidInputError, LimitError, PeerError, UnavailableError
from guest.rpc.budget import Budget
from guest.rpc.calls import Calls, Outcome
from guest.rpc.method import MAX_MESSAGE_LENGTH, Bound, CallContext, Metadata, Method, Q, R, Routes
from guest.rpc.server import DEFAULT_LIMITS, DRAIN_GRACE, CallObserver, ServerLimits
from guest.rpc.status import Status, StatusError, error_of
from guest.ttrpc import envelope
from guest.ttrpc.frame import oversize_text

ADDRESS: Final = "in-process"
"""What stands for an address."""


class InProcessChannel:
    """A `guest.rpc.method.Channel` without a socket."""

    def __init__(
        self,
        routes: Routes,
        observer: CallObserver | None = None,
        *,
        limits: ServerLimits = DEFAULT_LIMITS,
    ) -> None:
        self._routes = routes
        self._calls = Calls(observer, limits.roll_back)
        self._budget = Budget(limits.payload)
        self._free = asyncio.Semaphore(limits.calls)
        self._waiting: set[asyncio.Future[bytes]] = set()
        self._is_closed = False

    @property
    def address(self) -> str:
        """`in-process`."""
        return ADDRESS

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """See `Channel.call`."""
        payload = request.SerializeToString()
        data = envelope.encode_request(
            method.service,
            method.name,
            payload,
            timeout=envelope.timeout_nano(deadline.remaining()),
            metadata=metadata,
        )
        if len(data) > MAX_MESSAGE_LENGTH:
            raise LimitError(oversize_text(len(data)))
        async with deadline.limit(f"a free call to {method.path}"):
            await self._free.acquire()
            try:
                await self._budget.hold(len(data))
            except BaseException:
                self._free.release()
                raise
        answer = await self._serve(data, deadline)
        result = envelope.decode_response(answer)
        if isinstance(result, Status):
            raise error_of(result)
        try:
            return method.response.FromString(result)
        except ProtobufError as error:
            raise PeerError(f"answer to {method.path} cannot be parsed") from error

    async def _serve(self, data: bytes, deadline: Deadline) -> bytes:
        """Run the call; the slot and the bytes are given back when its handler has ended."""

        def give_back(_call: object = None) -> None:
            self._budget.give(len(data))
            self._free.release()

        try:
            asked = envelope.decode_request(data)
            bound = self._routes.find(asked.service, asked.method)
            message = _parse(bound, asked.payload)
            await self._open()
        except StatusError as error:
            give_back()
            raise error_of(error.status) from None
        except BaseException:
            give_back()
            raise
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def reply(outcome: Outcome) -> None:
            if not answer.done():
                _resolve(answer, outcome)

        context = CallContext(
            deadline=deadline if asked.timeout else bound.method.deadline(None),
            metadata=asked.metadata,
            peer=ADDRESS,
            connection=id(self),
        )
        self._waiting.add(answer)
        call = self._calls.start(bound, message, context, reply, give_back)
        try:
            return await answer
        finally:
            self._waiting.discard(answer)
            if not answer.done() or answer.cancelled():
                call.leave()

    async def _open(self) -> None:
        if self._is_closed:
            raise UnavailableError("in-process channel is closed")
        await self._calls.open()

    async def close(self) -> None:
        """See `Channel.close`; handlers that roll back or finish are waited for."""
        self._is_closed = True
        for answer in tuple(self._waiting):
            if not answer.done():
                answer.set_exception(UnavailableError("in-process channel was closed"))
        await self._calls.finish(0, DRAIN_GRACE)
        await self._calls.close()


def _parse(bound: Bound[Message, Message], payload: bytes) -> Message:
    try:
        return bound.method.request.FromString(payload)
    except ProtobufError as error:
        raise InvalidInputError(f"request of {bound.method.path} cannot be parsed") from error


def _resolve(answer: asyncio.Future[bytes], outcome: Outcome) -> None:
    if isinstance(outcome, Status):
        answer.set_result(envelope.encode_failure(outcome))
        return
    data = envelope.encode_success(outcome.SerializeToString())
    if len(data) > MAX_MESSAGE_LENGTH:
        answer.set_exception(LimitError(oversize_text(len(data))))
    else:
        answer.set_result(data)
