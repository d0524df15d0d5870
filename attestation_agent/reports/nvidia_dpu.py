"""The evidence of a BlueField DPU: its certificates and a signature. Sans-I/O.

Source: docs/spec/attesters.md 14.2.
"""

from typing import Final

from guest.errors import DecodeError
from guest.wire import Cursor, encode_base64

VERSION: Final = 1
ARCHITECTURE: Final = "bluefield3"

SCALAR_BYTES: Final = 48
"""A private key of P-384."""

REPORT_DATA_BYTES: Final = 64
"""Most report data that is signed."""

MAX_CERTIFICATE_BYTES: Final = 16 * 1024

_SEQUENCE: Final = 0x30


def verify_der(data: bytes) -> None:
    """Insist on one DER sequence that fills `data`; what is in it is the verifier's business.

    Raises:
        DecodeError: it is something else, or cut.
    """
    cursor = Cursor(data, "certificate")
    if cursor.unsigned(1) != _SEQUENCE:
        raise DecodeError("certificate is no DER sequence")
    length = cursor.unsigned(1)
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3:
            raise DecodeError("certificate has a length that DER has not")
        length = cursor.unsigned(count)
    cursor.take(length)
    cursor.finish()


def evidence_of(alias: bytes, device_id: bytes, signature: tuple[int, int]) -> object:
    """The evidence of the one DPU; `signature` becomes r and s side by side, 96 bytes."""
    raw = b"".join(part.to_bytes(SCALAR_BYTES, "big") for part in signature)
    return {
        "version": VERSION,
        "devices": [
            {
                "architecture": ARCHITECTURE,
                "alias_cert": encode_base64(alias),
                "device_id_cert": encode_base64(device_id),
                "report_data_signature": encode_base64(raw),
            }
        ],
    }
