"""Reports of CSV guests, SGX enclaves and accelerators give their fields or a `DecodeError`."""

from contextlib import suppress

import msgspec

from attestation_agent.reports.csv import (
    CsvReport,
    certificate_evidence,
    chain_evidence,
    hmac_sm3,
    hsk_evidence,
)
from attestation_agent.reports.hygon_dcu import DcuReport
from attestation_agent.reports.sgx import SgxQuote
from guest.errors import DecodeError

NONCE = bytes(range(16))


def _page(at: int) -> bytes:
    """An answer to `NONCE` with a body of `at` bytes; its anonce is zero."""
    signer = b"\1" * 2084 + b"number".ljust(64, b"\0") + bytes(32)
    page = bytes(0x80) + NONCE + bytes(at - 0x90) + signer + hmac_sm3(NONCE, signer)
    return page.ljust(4096, b"\0")


SEEDS = (
    _page(0x150),
    _page(0x490),
    b"\3" + bytes(431) + b"\4\0\0\0abcd\0",
    b"\x8c\1\0\0" + bytes(4092),
    bytes(2084),
    bytes(832),
    bytes(832 + 2084),
)


def one_input(data: bytes) -> None:
    """Decode them all."""
    for is_extended in (False, True):
        with suppress(DecodeError):
            report = CsvReport.repair(data, NONCE, is_extended=is_extended)
            assert (len(report.content), len(report.report_data)) == (4096, 64)
            msgspec.json.encode((report.evidence(), certificate_evidence(report.certificate)))
            assert report.serial_text.isalnum()
    for decode in (certificate_evidence, hsk_evidence, chain_evidence):
        with suppress(DecodeError):
            msgspec.json.encode(decode(data))
    with suppress(DecodeError):
        quote = SgxQuote.decode(data)
        assert quote.length <= len(data)
    with suppress(DecodeError):
        assert len(DcuReport.decode_response(data).user_data) == 64
