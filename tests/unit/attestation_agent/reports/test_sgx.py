"""SGX quotes, on documents built field by field from Intel's layout."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.sgx import MAX_QUOTE_BYTES, SgxQuote
from guest.errors import DecodeError
from guest_simulator.sgx.enclave import Enclave
from support.tdx_world import platform

DATA = bytes(range(64))


def quote() -> bytes:
    return Enclave(platform=platform(), config_id=b"\xc1" * 64).quote(DATA)


def test_a_quote_is_read_with_zeros_behind_and_never_cut() -> None:
    data = quote()
    for padding in (0, 1, 70):
        parsed = SgxQuote.decode(data + bytes(padding))
        assert parsed.length == len(data)
        assert (parsed.report_data, parsed.config_id) == (DATA, b"\xc1" * 64)
        assert (parsed.mrenclave, parsed.mrsigner) == (b"\xe1" * 32, b"\x51" * 32)
    for length in range(len(data)):
        with pytest.raises(DecodeError, match="SGX quote"):
            SgxQuote.decode(data[:length])
    with pytest.raises(DecodeError, match="not all zero"):
        SgxQuote.decode(data + b"\0\1")


def test_what_is_no_quote_of_an_enclave_says_why() -> None:
    data = quote()
    for version in (0, 2, 4, 5):
        with pytest.raises(DecodeError, match=f"version {version}, expected 3"):
            SgxQuote.decode(bytes((version, 0)) + data[2:])
    with pytest.raises(DecodeError, match="at most"):
        SgxQuote.decode(data.ljust(MAX_QUOTE_BYTES + 1, b"\0"))


@given(st.binary(max_size=600), st.integers(0, 600))
def test_any_bytes_give_a_quote_or_a_decode_error(noise: bytes, at: int) -> None:
    data = quote()
    for candidate in (noise, data[:at] + noise + data[at + len(noise) :]):
        with suppress(DecodeError):
            parsed = SgxQuote.decode(candidate)
            assert len(parsed.report_data) == 64
            assert parsed.length <= len(candidate)
