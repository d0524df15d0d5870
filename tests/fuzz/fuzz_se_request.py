"""SE requests and the ultravisor's blocks give values or a `DecodeError`."""

from contextlib import suppress

from attestation_agent.reports.se import (
    SeRequest,
    decode_argument,
    decode_control,
    encode_argument,
)
from guest.errors import DecodeError

SEEDS = (
    b'{"request_blob":"oQ==","measurement_size":64,"additional_size":32,'
    b'"encr_measurement_key":"","encr_request_nonce":"","image_hdr_tags":"'
    + b"A" * 277
    + b'A==","runtime_data_digest":"AA=="}',
    bytes(312),
    bytes(64),
)


def one_input(data: bytes) -> None:
    """Decode all three; what is a request has blocks."""
    with suppress(DecodeError):
        request = SeRequest.decode(data)
        argument = encode_argument(request, (1, 2, 3), "big")
        assert decode_argument(argument, "big") == (bytes(16), request.additional_bytes)
    with suppress(DecodeError):
        decode_argument(data, "big")
    with suppress(DecodeError):
        decode_control(data, "big")
