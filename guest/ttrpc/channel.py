"""The ttRPC client: many calls on one connection, which is made again when it breaks.

Source: docs/spec/ttrpc.md 5, 6, 6.3, 7, 12.
"""

import asyncio
import contextlib
import math
import os
import socket
from typing import Final

from google.protobuf.message import DecodeError as ProtobufError

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DecodeError,
    GuestError,
    LimitError,
    PeerError,
    UnavailableError,
    UnreachableError,
)
from guest.rpc.address import Address, UnixAddress, parse_address
from guest.rpc.listener import socket_name
from guest.rpc.method import Metadata, Method, Q, R
from guest.rpc.status import Code, Status, error_of
from guest.ttrpc import envelope
from guest.ttrpc.link import Link

CONNECT_TIMEOUT: Final = 5.0
"""Seconds in which a connection is made, inside the caller's deadline."""

TIMEOUT_GRACE: Final = 1.0
"""Seconds after the deadline in which the server's own status still wins."""

FULL_BACKLOG_DELAY: Final = 0.01
"""Seconds until a Unix socket with a full backlog is tried again; it cannot be waited for."""


class TtrpcChannel:
    """A `guest.rpc.method.Channel` over ttRPC; connects at the first call."""

    def __init__(self, address: Address | str, *, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        """Nothing is opened yet.

        Raises:
            InvalidInputError: the address cannot be parsed.
        """
        self._address = parse_address(address) if isinstance(address, str) else address
        self._connect_timeout = connect_timeout
        self._link: Link | None = None
        self._connecting: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def address(self) -> str:
        """Where it leads."""
        return str(self._address)

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """See `Channel.call`.

        A call that may be repeated is sent once more when the connection broke before its reply.
        """
        payload = request.SerializeToString()
        try:
            data = await self._exchange(method, payload, deadline, metadata)
        except UnreachableError:
            raise
        except UnavailableError:
            if not method.idempotent or self._is_closed:
                raise
            data = await self._exchange(method, payload, deadline, metadata)
        return _decode(method, data)

    async def _exchange(
        self, method: Method[Q, R], payload: bytes, deadline: Deadline, metadata: Metadata
    ) -> bytes:
        link = self._link
        if link is None or not link.is_usable or not link.is_writable:
            link = await self._usable_link(deadline)
        left = deadline.remaining()
        if left <= 0:
            raise DeadlineError(f"no time left to call {method.path}")
        data = envelope.encode_request(
            method.service,
            method.name,
            payload,
            timeout=envelope.timeout_nano(left),
            metadata=metadata,
        )
        stream_id, waiting = link.send(data)
        timer = None
        if not math.isinf(left):
            loop = asyncio.get_running_loop()
            timer = loop.call_later(left + TIMEOUT_GRACE, _expire, waiting, method.path)
        try:
            return await waiting
        finally:
            if timer is not None:
                timer.cancel()
            link.forget(stream_id)

    async def _usable_link(self, deadline: Deadline) -> Link:
        async with deadline.limit(f"a connection to {self._address}"):
            while True:
                if self._is_closed:
                    raise UnavailableError(f"channel to {self._address} is closed")
                link = self._link
                if link is None or not link.is_usable:
                    await self._connect_once()
                    continue
                await link.writable()
                if link.is_usable:
                    return link

    async def _connect_once(self) -> None:
        """Make a connection, or wait for the caller that does; its failure is everybody's."""
        if self._connecting is not None:
            await asyncio.shield(self._connecting)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connecting = done
        try:
            await self._connect()
            done.set_result(None)
        except GuestError as error:
            done.set_exception(error)
            done.exception()  # not everybody waits for it
            raise
        finally:
            self._connecting = None
            if not done.done():  # this caller gave up: another one tries
                done.set_result(None)

    async def _connect(self) -> None:
        if self._link is not None:
            self._link.retire()
            self._link = None
        where = str(self._address)
        try:
            async with asyncio.timeout(self._connect_timeout):
                sock = await _open_socket(self._address)
                loop = asyncio.get_running_loop()
                try:
                    _, link = await loop.create_connection(lambda: Link(where), sock=sock)
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            raise UnreachableError(f"cannot connect to {where}: timed out") from error
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise UnreachableError(f"cannot connect to {where}: {reason}") from error
        if self._is_closed:
            link.abort()
            return
        self._link = link

    async def close(self) -> None:
        """See `Channel.close`."""
        self._is_closed = True
        link, self._link = self._link, None
        if link is not None:
            link.abort()
            await asyncio.sleep(0)


async def _open_socket(address: Address) -> socket.socket:
    family, name = socket_name(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if isinstance(address, UnixAddress):
            while True:
                with contextlib.suppress(BlockingIOError):  # the server's backlog is full
                    sock.connect(name)
                    return sock
                await asyncio.sleep(FULL_BACKLOG_DELAY)
        await asyncio.get_running_loop().sock_connect(sock, name)
    except BaseException:
        sock.close()
        raise
    return sock


def _expire(waiting: asyncio.Future[bytes], path: str) -> None:
    if not waiting.done():
        waiting.set_exception(DeadlineError(f"no answer to {path} in time"))


def _decode(method: Method[Q, R], data: bytes) -> R:
    try:
        result = envelope.decode_response(data)
        if not isinstance(result, Status):
            return method.response.FromString(result)
    except (DecodeError, ProtobufError) as error:
        raise PeerError(f"answer to {method.path} cannot be parsed") from error
    # Compat: the protocol says INVALID_ARGUMENT when the reply, too, is over the limit.
    if result.code == Code.INVALID_ARGUMENT and envelope.is_oversize_text(result.message):
        raise LimitError(result.message)
    raise error_of(result)
