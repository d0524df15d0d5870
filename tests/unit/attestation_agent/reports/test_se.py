"""Requests to the ultravisor, and its blocks byte by byte."""

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.se import (
    ARGUMENT_BYTES,
    CONTROL_BYTES,
    SeRequest,
    decode_argument,
    decode_control,
    encode_argument,
    encode_control,
)
from guest.errors import DecodeError


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def document(**changes: Any) -> bytes:
    members = {
        "request_blob": b64(b"\xa1" * 100),
        "measurement_size": 64,
        "additional_size": 32,
        "encr_measurement_key": b64(b"\xc1"),
        "encr_request_nonce": b64(b"\xc2"),
        "image_hdr_tags": b64(bytes(208)),
        "runtime_data_digest": b64(bytes(range(48))),
        "version": "unknown members are skipped",
    }
    members.update(changes)
    return json.dumps({k: v for k, v in members.items() if v is not ...}).encode()


def test_a_request_is_read_and_its_digest_padded() -> None:
    request = SeRequest.decode(document())
    assert request.user_data == bytes(range(48)) + bytes(16)
    assert (request.measurement_bytes, request.additional_bytes) == (64, 32)
    assert request.control_block == b"\xa1" * 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime_data_digest": ...}, "^runtime_data_digest not provided$"),
        ({"runtime_data_digest": None}, "^runtime_data_digest not provided$"),
        (
            {"runtime_data_digest": b64(bytes(65))},
            r"^Invalid data length: expected 64 bytes, got 65 \(too large\)$",
        ),
        ({"runtime_data_digest": "?"}, "runtime_data_digest is not"),
        ({"request_blob": ""}, "request_blob: 0 bytes"),
        ({"request_blob": b64(bytes(2**20 + 1))}, "request_blob: 1048577 bytes"),
        ({"measurement_size": 0}, "measurement_size: 0 bytes"),
        ({"measurement_size": -1}, "measurement_size: -1 bytes"),
        ({"measurement_size": 0x8001}, "measurement_size: 32769 bytes"),
        ({"additional_size": 0}, "additional_size: 0 bytes"),
        ({"additional_size": 2**40}, "additional_size"),
        ({"measurement_size": "64"}, "does not fit"),
        ({"image_hdr_tags": b64(bytes(207))}, "image_hdr_tags: 207 bytes, expected 208"),
        ({"encr_request_nonce": ...}, "does not fit"),
    ],
)
def test_a_request_that_cannot_succeed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        SeRequest.decode(document(**changes))


def test_a_member_twice_is_refused() -> None:
    text = document().replace(b'"version"', b'"measurement_size"')
    with pytest.raises(DecodeError):
        SeRequest.decode(text)


def test_the_blocks_have_the_published_layout_in_both_byte_orders() -> None:
    control = encode_control(0x0102030405060708, "big")
    assert control == bytes(8) + bytes(range(1, 9)) + (312).to_bytes(4, "big") + bytes(44)
    assert encode_control(1, "little")[8:20] == b"\1" + bytes(7) + b"\x38\1\0\0"
    request = SeRequest.decode(document())
    for order in ("big", "little"):
        argument = encode_argument(request, (1, 2, 3), order)
        numbers = [int.from_bytes(argument[at : at + 8], order) for at in (0, 8, 16)]
        assert numbers == [1, 2, 3]
        assert argument[24:280] == request.user_data + bytes(192)
        assert argument[280:296] == bytes(16)
        sizes = [int.from_bytes(argument[at : at + 4], order) for at in (296, 300, 304)]
        assert sizes == [100, 64, 32]
        assert int.from_bytes(argument[308:310], order) == 64
        assert argument[310:] == bytes(2)
        assert decode_argument(argument, order) == (bytes(16), 32)
    assert decode_control(bytes(4) + b"\0\1\2\3" + bytes(56), "big") == (1, 0x0203)


@given(st.binary(max_size=400))
def test_any_bytes_give_values_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        SeRequest.decode(data)
    with suppress(DecodeError):
        decode_argument(data, "big")
        assert len(data) == ARGUMENT_BYTES
    with suppress(DecodeError):
        decode_control(data, "big")
        assert len(data) == CONTROL_BYTES
