"""GPU reports: the nonce in them; chains that are PEM."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.nvidia import GpuReport, verify_chain
from guest.errors import DecodeError
from guest_simulator.devices.gpu import Gpu

GPU = Gpu(uuid="GPU-1")
REPORT = GPU.report(bytes(range(32)))


def test_the_nonce_is_the_requests() -> None:
    assert GpuReport.decode(REPORT).nonce == bytes(range(32))


@pytest.mark.parametrize("place", [0, 1, 37, 38])
def test_other_messages_are_refused(place: int) -> None:
    changed = bytearray(REPORT)
    changed[place] ^= 0x80
    with pytest.raises(DecodeError, match="GPU report: message"):
        GpuReport.decode(bytes(changed))


def test_a_report_without_both_heads_is_refused() -> None:
    for length in range(41):
        with pytest.raises(DecodeError):
            GpuReport.decode(REPORT[:length])


@pytest.mark.parametrize(
    "chain", [b"", b"\0", GPU.chain[:-30], GPU.chain[1:], GPU.chain + b"\xff", b"-----BEGIN" * 9]
)
def test_what_is_no_chain_is_refused(chain: bytes) -> None:
    verify_chain(GPU.chain * 3)
    verify_chain(GPU.chain + b"\0")  # as C ends a text
    with pytest.raises(DecodeError):
        verify_chain(chain)


@given(st.binary(max_size=100))
def test_any_bytes_give_a_value_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        assert len(GpuReport.decode(data).nonce) == 32
    with suppress(DecodeError):
        verify_chain(data)
