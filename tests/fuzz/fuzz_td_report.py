"""TD quotes and TDREPORTs give their fields or a `DecodeError`."""

from contextlib import suppress

from attestation_agent.reports.tdx import TdQuote, TdReport
from guest.errors import DecodeError

_HEADER = b"\4\0\2\0\x81\0\0\0".ljust(48, b"\0")
SEEDS = (
    _HEADER + bytes(584) + b"\4\0\0\0abcd\0\0",
    b"\5" + _HEADER[1:] + b"\2\0\x48\2\0\0" + bytes(584) + bytes(4),
    b"\5" + _HEADER[1:] + b"\3\0\x88\2\0\0" + bytes(648) + b"\1\0\0\0x",
    b"\x81\0\1\0".ljust(1024, b"\0"),
)


def one_input(data: bytes) -> None:
    """Decode both."""
    with suppress(DecodeError):
        quote = TdQuote.decode(data)
        assert len(quote.report_data) == 64
        assert [len(register) for register in quote.registers] == [48] * 4
        assert len(data) >= 636 + len(quote.signature_data) + quote.padding
    with suppress(DecodeError):
        report = TdReport.decode(data)
        assert len(report.report_data) == 64
        assert [len(register) for register in report.registers] == [48] * 4
