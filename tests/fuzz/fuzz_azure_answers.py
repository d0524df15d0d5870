"""Answers of Azure's metadata service give what they hold or a `DecodeError`."""

from contextlib import suppress

from attestation_agent.reports.azure import decode_certification, decode_quote_answer
from guest.errors import DecodeError

SEEDS = (
    b'{"quote":"-_8"}',
    b'{"quote":"+/8=\\n"}',
    b'{"vcekCert":"-----BEGIN CERTIFICATE-----\\nMIIAAA==\\n-----END CERTIFICATE-----\\n"}',
)


def one_input(data: bytes) -> None:
    """Decode both."""
    with suppress(DecodeError):
        assert len(decode_quote_answer(data)) <= len(data)
    with suppress(DecodeError):
        assert decode_certification(data)[:2] == b"\x30\x82"
