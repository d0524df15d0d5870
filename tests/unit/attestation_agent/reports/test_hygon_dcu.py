"""Reports of accelerators: the page of the driver and what evidence makes of it."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.reports.hygon_dcu import DcuReport
from guest.errors import DecodeError
from guest_simulator.hygon.dcu import Mkfd

DATA = bytes(range(64))


def test_a_page_gives_its_fields() -> None:
    report = DcuReport.decode_response(Mkfd().answer(4711, DATA))
    assert report.evidence() == {
        "body": {
            "version": 1,
            "chip_id": list(b"DCU4711".ljust(16, b"\0")),
            "user_data": list(DATA),
            "measure": [0x3E] * 32,
            "reserved": [0] * 128,
            "sig_usage": 0x1008,
            "sig_algo": 4,
        },
        "sig": {"r": [0x0A] * 72, "s": [0x0B] * 72},
    }


def test_a_length_that_is_no_reports_is_refused() -> None:
    page = Mkfd().answer(1, DATA)
    for size in (0, 395, 4096 - 31, 2**32 - 1):
        with pytest.raises(DecodeError, match=f"report of {size} bytes"):
            DcuReport.decode_response(struct.pack("<I", size) + page[4:])
    for cut in range(428):
        with pytest.raises(DecodeError, match="DCU response"):
            DcuReport.decode_response(page[:cut])


@given(st.binary(max_size=600))
def test_any_bytes_give_a_report_or_a_decode_error(noise: bytes) -> None:
    with suppress(DecodeError):
        assert len(DcuReport.decode_response(noise).user_data) == 64
    report = DcuReport.decode_response(struct.pack("<I28x", 396) + noise[:396].ljust(396, b"\0"))
    assert report.user_data == noise[20:84].ljust(64, b"\0")
