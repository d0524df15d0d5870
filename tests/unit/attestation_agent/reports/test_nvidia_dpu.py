"""Certificates of a DPU are whole, or refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.nvidia_dpu import evidence_of, verify_der
from guest.errors import DecodeError
from guest.wire import decode_base64
from guest_simulator.devices.bluefield import BlueField


def test_a_whole_certificate_is_taken_and_every_other_length_refused() -> None:
    dpu = BlueField()
    whole = dpu.certificate(dpu.alias, "alias")
    verify_der(whole)
    verify_der(b"\x30\0")
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            verify_der(whole[:length])
    for wrong in (whole + b"\0", b"\x31\0", b"\x30\x80", b"\x30\x84\0\0\0\0"):
        with pytest.raises(DecodeError):
            verify_der(wrong)


def test_the_signature_is_r_and_s_with_their_zeros() -> None:
    evidence = evidence_of(b"a", b"d", (1, 2**384 - 1))
    assert isinstance(evidence, dict)
    (device,) = evidence["devices"]
    raw = decode_base64(device["report_data_signature"])
    assert raw == bytes(47) + b"\1" + b"\xff" * 48


@given(st.binary(max_size=300))
def test_any_bytes_are_one_sequence_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        verify_der(data)
        assert data[0] == 0x30
