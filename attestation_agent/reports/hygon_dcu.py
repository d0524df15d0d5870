"""Attestation reports of Hygon accelerators (DCU). Sans-I/O.

Source: docs/spec/attesters.md 12.3.
"""

from dataclasses import dataclass
from typing import Final, Self

from guest.errors import DecodeError
from guest.wire import Cursor

USER_DATA_BYTES: Final = 64
RESPONSE_BYTES: Final = 4096
REPORT_BYTES: Final = 396
"""From `version` to the signature's end."""

_RESPONSE_RESERVED: Final = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class DcuReport:
    """One accelerator's report; byte strings have the names that evidence gives them.

    Attributes:
        signature_r: 72 bytes; `signature_s` likewise.
    """

    version: int
    chip_id: bytes
    user_data: bytes
    measure: bytes
    reserved: bytes
    sig_usage: int
    sig_algo: int
    signature_r: bytes
    signature_s: bytes

    @classmethod
    def decode_response(cls, response: bytes) -> Self:
        """Parse the page that the driver fills: a length, then the report.

        Raises:
            DecodeError: cut short, or the length is none of a report in this page.
        """
        cursor = Cursor(response, "DCU response")
        size = cursor.unsigned(4, little=True)
        cursor.take(_RESPONSE_RESERVED)
        if not REPORT_BYTES <= size <= cursor.remaining:
            raise DecodeError(f"DCU response has a report of {size} bytes")
        return cls(
            version=cursor.unsigned(4, little=True),
            chip_id=cursor.take(16),
            user_data=cursor.take(USER_DATA_BYTES),
            measure=cursor.take(32),
            reserved=cursor.take(128),
            sig_usage=cursor.unsigned(4, little=True),
            sig_algo=cursor.unsigned(4, little=True),
            signature_r=cursor.take(72),
            signature_s=cursor.take(72),
        )

    def evidence(self) -> dict[str, object]:
        """One element of `attestation_reports`."""
        return {
            "body": {
                "version": self.version,
                "chip_id": list(self.chip_id),
                "user_data": list(self.user_data),
                "measure": list(self.measure),
                "reserved": list(self.reserved),
                "sig_usage": self.sig_usage,
                "sig_algo": self.sig_algo,
            },
            "sig": {"r": list(self.signature_r), "s": list(self.signature_s)},
        }
