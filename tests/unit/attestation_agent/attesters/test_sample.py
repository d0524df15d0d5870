"""The sample attester echoes, and can do nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.attesters.sample import SampleAttester
from guest.deadline import Deadline
from guest.wire import decode_base64

SPEC_DATA = bytes(range(0x30))
SPEC_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"


@pytest.mark.spec("attesters", 41)
async def test_sample_evidence_is_as_published_and_empty_for_no_report_data() -> None:
    attester = SampleAttester()
    soon = Deadline.after(10)
    assert await attester.evidence(SPEC_DATA, soon) == {"svn": "1", "report_data": SPEC_TEXT}
    assert await attester.evidence(b"", soon) == {"svn": "1", "report_data": ""}


@given(st.binary(max_size=300))
async def test_sample_evidence_takes_any_length_and_gives_it_back(data: bytes) -> None:
    evidence = await SampleAttester().evidence(data, Deadline.after(10))
    assert isinstance(evidence, dict)
    assert decode_base64(evidence["report_data"]) == data


def test_the_sample_has_neither_registers_nor_binding() -> None:
    assert SampleAttester().registers is None
    assert SampleAttester().init_data is None
