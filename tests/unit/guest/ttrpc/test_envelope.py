import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.protos.detail_pb2 import ErrorDetail
from guest.protos.ttrpc_pb2 import Response
from guest.rpc.status import DETAIL_TYPE_URL, Status
from guest.ttrpc import envelope

TEXT = st.text(max_size=20)


@given(
    TEXT, TEXT, st.binary(max_size=50), st.integers(0, 2**63 - 1), st.lists(st.tuples(TEXT, TEXT))
)
def test_a_request_survives_encoding(
    service: str, method: str, payload: bytes, nano: int, pairs: list[tuple[str, str]]
) -> None:
    metadata = tuple(pairs)
    data = envelope.encode_request(service, method, payload, timeout=nano, metadata=metadata)
    call = envelope.decode_request(data)
    assert (call.service, call.method, call.payload) == (service, method, payload)
    assert call.metadata == tuple((key.lower(), value) for key, value in metadata)
    assert call.timeout == (nano / 1e9 if nano else None)


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_decode_errors(data: bytes) -> None:
    with suppress(DecodeError):
        envelope.decode_request(data)
    with suppress(DecodeError):
        envelope.decode_response(data)


@given(st.integers(1, 2**31 - 1), TEXT, st.none() | st.lists(TEXT, max_size=3))
def test_a_failure_survives_encoding(code: int, text: str, causes: list[str] | None) -> None:
    detail = None if causes is None else ErrorDetail(code="x", status=7, causes=causes)
    status = Status(code=code, message=text, detail=detail)
    assert envelope.decode_response(envelope.encode_failure(status)) == status


def test_details_of_others_are_left_out() -> None:
    message = Response()
    message.status.code = 5
    message.status.details.add(type_url="type.googleapis.com/other", value=b"\xff")
    message.status.details.add(type_url=DETAIL_TYPE_URL, value=b"\x0a\xff")
    decoded = envelope.decode_response(message.SerializeToString())
    assert decoded == Status(code=5, message="")


@pytest.mark.parametrize(
    ("seconds", "nano"),
    [(math.inf, 0), (50.0, 50_000_000_000), (0.0, 1), (1e-12, 1), (1e300, 2**63 - 1)],
)
def test_a_wait_becomes_nanoseconds(seconds: float, nano: int) -> None:
    assert envelope.timeout_nano(seconds) == nano


def test_payload_next_to_an_error_is_ignored() -> None:
    message = Response(payload=b"x")
    message.status.code = 13
    assert isinstance(envelope.decode_response(message.SerializeToString()), Status)
