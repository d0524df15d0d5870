"""SNP reports and certificate tables give their fields or a `DecodeError`."""

from contextlib import suppress

import msgspec

from attestation_agent.reports.snp import SnpReport, certificate_chain, parse_certificates
from guest.errors import DecodeError


def _seed(version: int, family: int, model: int) -> bytes:
    report = bytearray(1184)
    report[0] = version
    report[0x188:0x18A] = bytes((family, model))
    report[0x1A0:0x1A8] = b"chip id."
    return bytes(report)


SEEDS = (
    _seed(2, 0, 0),
    _seed(3, 0x19, 1),
    _seed(5, 0x1A, 2),
    bytes.fromhex("63da758de6644564adc5f4b93be8accd3000000004000000") + bytes(24) + b"abcd",
    bytes(48),
)


def one_input(data: bytes) -> None:
    """Decode both."""
    with suppress(DecodeError):
        report = SnpReport.decode(data)
        assert report.encode()[:0x330] == data[:0x330]
        msgspec.json.encode(report.evidence())
    with suppress(DecodeError):
        found = parse_certificates(data)
        assert sum(len(certificate.data) for certificate in found) <= len(data)
        msgspec.json.encode(certificate_chain(found))
