"""SNP reports of real machines with their endorsement keys, or such as a test key signed."""

import json
from typing import Final

import msgspec
import pytest

from attestation_agent.reports.snp import SnpReport
from guest_simulator.snp.chip import Launch
from support.documents import Documents
from support.snp_world import chip, rebuild, verify_signature

PAIRS: Final = {
    "test-report.bin": ("test-vcek.der", "Milan", 2),
    "test-vlek-report.bin": ("test-vlek.der", "Genoa", 3),
}


@pytest.mark.spec("attesters", 23, built=True)
@pytest.mark.parametrize("name", PAIRS)
def test_a_report_goes_there_and_back_to_the_byte_and_its_signature_verifies(
    name: str, documents: Documents
) -> None:
    certificate, model, version = PAIRS[name]
    data = documents.get(name, lambda: chip(model).report(Launch(version=version), bytes(64)))
    key = documents.get(certificate, lambda: chip(model).certificates["VCEK"])
    report = SnpReport.decode(data)
    assert report.encode() == data
    verify_signature(data, key)
    members = json.loads(msgspec.json.encode(report.evidence()))
    assert rebuild(members) == data
    verify_signature(rebuild(members), key)
