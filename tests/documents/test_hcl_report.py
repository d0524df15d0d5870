"""Reports of Azure's paravisor as a virtual TPM of each TEE holds them, or built field by field."""

import hashlib
from typing import Final

import pytest

from attestation_agent.reports.hcl import HclReport, ReportType
from guest_simulator.tpm import wire
from guest_simulator.tpm.paravisor import SNP, TDX, document_of, hcl_report
from support.documents import Documents

KEY: Final = wire.RsaKey(modulus=(1 << 2047) + 12345, exponent=65537)
FILES: Final = {"hcl-report-tdx.bin": (TDX, 128), "hcl-report-snp.bin": (SNP, 80)}
"""Name to the type, and to where the hardware's report has its report data."""


def build(kind: int, report_data_at: int) -> bytes:
    document = document_of(KEY, b"user data")
    hardware = bytes(report_data_at) + hashlib.sha256(document).digest()
    return hcl_report(kind, hardware.ljust(1184, b"\0"), document)


@pytest.mark.spec("attesters", 33, built=True)
@pytest.mark.parametrize("name", FILES)
def test_the_report_of_the_hardware_binds_the_document_with_the_signing_key(
    name: str, documents: Documents
) -> None:
    kind, report_data_at = FILES[name]
    data = documents.get(name, lambda: build(kind, report_data_at))
    report = HclReport.decode(data)
    assert report.type is ReportType(kind)
    assert data[:4] == b"HCLA"
    digest = hashlib.sha256(report.document).digest()
    assert data[32 + report_data_at :][:32] == digest
    assert report.binds_document
    assert report.signing_key is not None
