"""Composite evidence as text."""

from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.evidence import encode_additional, encode_primary
from guest.tee import Tee


def test_the_text_is_compact_and_has_no_line_end() -> None:
    text = encode_primary({"svn": "1", "report_data": ""})
    assert text == b'{"svn":"1","report_data":""}'


def test_devices_are_one_object_by_their_wire_names() -> None:
    evidence = {Tee.SAMPLE_DEVICE: {"svn": "2", "report_data": "AAEC"}, Tee.NVIDIA_DPU: [1]}
    text = encode_additional(evidence)
    assert text == b'{"sampledevice":{"svn":"2","report_data":"AAEC"},"nvidia-dpu":[1]}'


def test_no_devices_are_no_bytes() -> None:
    assert encode_additional({}) == b""


@given(st.text(max_size=50))
def test_text_of_any_kind_stays_valid_json(value: str) -> None:
    import json

    if value.isascii():
        assert json.loads(encode_primary({"a": value})) == {"a": value}
