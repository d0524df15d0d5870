"""The ttRPC Request and Response messages around a call's own messages. Sans-I/O.

Source: docs/spec/ttrpc.md 3, 4, 5.
"""

import math
from typing import Final

import msgspec
from google.protobuf.message import DecodeError as ProtobufError

from guest.errors import DecodeError
from guest.protos.detail_pb2 import ErrorDetail
from guest.protos.ttrpc_pb2 import Any as WireAny
from guest.protos.ttrpc_pb2 import KeyValue, Request, Response
from guest.protos.ttrpc_pb2 import Status as WireStatus
from guest.rpc.method import Metadata
from guest.rpc.status import DETAIL_TYPE_URL, Status

MAX_TIMEOUT_NANO: Final = 2**63 - 1
"""Longest timeout that the field holds, in nanoseconds."""

NANO: Final = 1_000_000_000


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded Request.

    Attributes:
        service: as the caller spelled it.
        method: as the caller spelled it.
        payload: the encoded request message.
        timeout: seconds; negative is over already; None: the caller sent none.
        metadata: in the caller's order and spelling.
    """

    service: str
    method: str
    payload: bytes
    timeout: float | None
    metadata: Metadata


def timeout_nano(seconds: float) -> int:
    """The field's value for a wait; 0, which means none, for an infinite one."""
    if math.isinf(seconds):
        return 0
    if seconds >= MAX_TIMEOUT_NANO / NANO:
        return MAX_TIMEOUT_NANO
    return max(1, math.ceil(seconds * NANO))


def encode_request(
    service: str, method: str, payload: bytes, *, timeout: int = 0, metadata: Metadata = ()
) -> bytes:
    """A Request; keys of metadata get lower case.

    Args:
        service: package and service, without a leading slash.
        method: the bare name.
        payload: the encoded request message.
        timeout: nanoseconds, relative; 0 is none.
        metadata: repeated keys are kept, in order.
    """
    request = Request(service=service, method=method, payload=payload, timeout_nano=timeout)
    if metadata:
        request.metadata.extend(KeyValue(key=k.lower(), value=v) for k, v in metadata)
    return request.SerializeToString()


def decode_request(data: bytes) -> Call:
    """Parse a Request.

    Raises:
        DecodeError: the bytes are no Request.
    """
    try:
        request = Request.FromString(data)
    except ProtobufError as error:
        raise DecodeError("Request cannot be parsed") from error
    nano = request.timeout_nano
    return Call(
        service=request.service,
        method=request.method,
        payload=request.payload,
        timeout=nano / NANO if nano else None,
        metadata=tuple((m.key, m.value) for m in request.metadata) if request.metadata else (),
    )


def encode_success(payload: bytes) -> bytes:
    """A Response with an empty status, as Rust servers write it."""
    return Response(status=WireStatus(), payload=payload).SerializeToString()


def wire_status(status: Status) -> WireStatus:
    """A status with our detail among its details."""
    wire = WireStatus(code=status.code, message=status.message)
    if status.detail is not None:
        packed = status.detail.SerializeToString()
        wire.details.append(WireAny(type_url=DETAIL_TYPE_URL, value=packed))
    return wire


def encode_failure(status: Status) -> bytes:
    """A Response that says why there is no reply."""
    return Response(status=wire_status(status)).SerializeToString()


def decode_response(data: bytes) -> bytes | Status:
    """The payload of a success (status absent, empty or code 0), or the failure's status.

    Raises:
        DecodeError: the bytes are no Response.
    """
    try:
        response = Response.FromString(data)
    except ProtobufError as error:
        raise DecodeError("Response cannot be parsed") from error
    if not response.status.code:
        return response.payload
    return read_status(response.status)


def read_status(wire: WireStatus) -> Status:
    """A status of a peer; a detail that is not ours, or cannot be read, is left out."""
    detail = None
    for member in wire.details:
        if member.type_url == DETAIL_TYPE_URL:
            try:
                detail = ErrorDetail.FromString(member.value)
            except ProtobufError:
                detail = None
    return Status(code=wire.code, message=wire.message, detail=detail)


def is_oversize_text(text: str) -> bool:
    """Whether a status says that a message was too long, which has no code of its own."""
    return text.startswith("message length ") and "exceed maximum message size" in text
