"""What an NVIDIA GPU says of itself, as far as an attester looks at it. Sans-I/O.

A report is the SPDM request GET_MEASUREMENTS, with the nonce in it, and the signed response.

Source: docs/spec/attesters.md 14.1; DMTF DSP0274, GET_MEASUREMENTS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from guest.errors import DecodeError
from guest.wire import Cursor, encode_base64

NONCE_BYTES: Final = 32

GET_MEASUREMENTS: Final = 0xE0
MEASUREMENTS: Final = 0x60
SPDM_MAJOR: Final = 1

ARCHITECTURES: Final[Mapping[int, str]] = MappingProxyType({9: "HOPPER", 10: "BLACKWELL"})
"""NVML's number to the name that verifiers know."""

NO_UUID: Final = "unknown"
"""What upstream sends in the place of the UUID."""

_PEM_START: Final = b"-----BEGIN CERTIFICATE-----"
_PEM_END: Final = b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """An SPDM exchange.

    Attributes:
        nonce: the 32 bytes that the signature covers.
    """

    nonce: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the head of both messages.

        Raises:
            DecodeError: too short, or not these messages.
        """
        cursor = Cursor(data, "GPU report")
        _verify_head(cursor.take(4), GET_MEASUREMENTS)
        nonce = cursor.take(NONCE_BYTES)
        cursor.take(1)  # the slot of the certificate chain
        _verify_head(cursor.take(4), MEASUREMENTS)
        return cls(nonce=nonce)


def _verify_head(head: bytes, code: int) -> None:
    if head[0] >> 4 != SPDM_MAJOR or head[1] != code:
        raise DecodeError(f"GPU report: message {head[:2].hex()}, expected code {code:#x}")


def verify_chain(certificates: bytes) -> None:
    """Insist on PEM text of certificates; their signatures are the verifier's business.

    Raises:
        DecodeError: it is something else.
    """
    text = certificates.strip(b"\0\t\r\n ")
    count = text.count(_PEM_START)
    if not (text.isascii() and text.startswith(_PEM_START) and text.endswith(_PEM_END)):
        raise DecodeError("GPU certificate chain is not PEM")
    if count != text.count(_PEM_END):
        raise DecodeError("GPU certificate chain is cut")


def entry_of(architecture: str, report: bytes, certificates: bytes) -> dict[str, str]:
    """One GPU's member of the evidence list."""
    return {
        "arch": architecture,
        "uuid": NO_UUID,
        "evidence": encode_base64(report),
        "certificate": encode_base64(certificates),
    }
