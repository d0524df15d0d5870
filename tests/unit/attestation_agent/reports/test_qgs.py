"""Messages of the quoting service and its configuration file."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports import qgs
from guest.errors import DecodeError
from guest_simulator.tdx import qgs as service

PREFIX = "00000418010001000000000018040000000000000004000000000000"
RESPONSE = "000000200100010001000000200000000000000000000000080000000400020081000000"
QUOTE = "0400020081000000"


@pytest.mark.spec("attesters", 14)
def test_frames_are_the_published_ones_and_other_lengths_are_refused() -> None:
    request = qgs.encode_request(bytes(range(256)) * 4)
    assert len(request) == 1052
    assert request[:28].hex() == PREFIX
    assert request[28:] == bytes(range(256)) * 4
    response = bytes.fromhex(RESPONSE)
    assert qgs.decode_framed_response(response).hex() == QUOTE
    assert qgs.decode_length(response[:4]) == len(response) - 4
    for length in range(len(response)):
        with pytest.raises(DecodeError):
            qgs.decode_framed_response(response[:length])
    with pytest.raises(DecodeError, match="too many"):
        qgs.decode_framed_response(response + b"\0")
    for size in (0, 23, 1024 * 1024 + 1, 0xFFFFFFFF):
        with pytest.raises(DecodeError, match="expected 24 to 1048576"):
            qgs.decode_length(size.to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (service.response(b"", error=0x12002), "0x12002: out of memory"),
        (service.response(b"q", error=7), "0x7: unknown"),
        (service.response(b""), "empty quote"),
        (b"\2" + service.response(b"q")[1:], "version 2"),
        (service.response(b"q")[:4] + b"\0" + service.response(b"q")[5:], "type 0"),
        (service.response(b"q") + b"\0", "says 25 bytes, has 26"),
    ],
)
def test_a_response_without_a_quote_says_why(message: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        qgs.decode_response(message)


def test_an_identity_before_the_quote_is_passed_over() -> None:
    assert qgs.decode_response(service.response(b"quote", identity=b"abc")) == b"quote"


@pytest.mark.spec("attesters", 15)
@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("port = 4050\n", 4050),
        ("port=4050", 4050),
        ("  port\t =  4050  ", 4050),
        ("# port = 1\n   # port = 2\nport = 3\nport = 4", 3),
        ("port = 4050 # the usual one", None),
        ("port = 4050x", None),
        ("port = 65536", None),
        ("port = 65536\nport = 65535", 65535),
        ("port = 00000004050", None),
        ("port = ", None),
        ("port = -1", None),
        ("sport = 1\nport 4050", None),
        ("", None),
    ],
)
def test_the_port_is_that_of_the_first_line_that_has_one(text: str, port: int | None) -> None:
    assert qgs.find_port(text) == port


@given(st.binary(max_size=80))
def test_any_bytes_give_a_quote_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        assert qgs.decode_response(data) in data
    with suppress(DecodeError):
        qgs.decode_framed_response(data)
    with suppress(DecodeError):
        qgs.decode_length(data)
    qgs.find_port(data.decode("latin-1"))


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=20))
def test_a_built_response_reads_back(quote: bytes, identity: bytes) -> None:
    framed = service.frame(service.response(quote, identity=identity))
    assert qgs.decode_framed_response(framed) == quote
