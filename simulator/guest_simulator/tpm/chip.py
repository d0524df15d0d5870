"""An AMD chip as far as Azure's guests see it: reports, and the certificate that signs them.

Source: docs/spec/attesters.md 4.1 and 8 (AMD SEV-SNP ABI, attestation report).
"""

import datetime
import struct
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 672
YEARS: Final = datetime.timedelta(days=3650)


@dataclass(kw_only=True)
class Chip:
    """One chip.

    Attributes:
        key: P-384, as a VCEK is.
        certificate: of that key, signed by itself.
        tcb: what a report says of the firmware, 8 bytes.
        id: 64 bytes.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    tcb: bytes = bytes((3, 0, 0, 0, 0, 0, 22, 213))
    id: bytes = bytes(range(64))

    @classmethod
    def generate(cls) -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SEV-VCEK (simulated)")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - YEARS).not_valid_after(now + YEARS)
        return cls(key=key, certificate=builder.sign(key, hashes.SHA384()))

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def report(self, report_data: bytes) -> bytes:
        """A signed report of version 3 over 64 bytes, VMPL 0."""
        report = bytearray(REPORT_BYTES)
        struct.pack_into("<II", report, 0, 3, 0)
        struct.pack_into("<I", report, 52, 1)
        report[80:144] = report_data
        for at in (56, 384, 480, 496):
            report[at : at + 8] = self.tcb
        report[416:480] = self.id
        signature = self.key.sign(bytes(report[:SIGNED_BYTES]), ec.ECDSA(hashes.SHA384()))
        for at, number in zip((672, 744), decode_dss_signature(signature), strict=True):
            report[at : at + 72] = number.to_bytes(72, "little")
        return bytes(report)
