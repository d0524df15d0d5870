"""TD quotes, field by field, signed with keys that a test may know.

Source: docs/spec/attesters.md 3.7 (Intel TDX DCAP quoting library API, appendix 3).
"""

import datetime
import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

INTEL_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
DAYS: Final = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A machine's quoting keys.

    Attributes:
        attestation_key: of the quoting enclave; signs quotes.
        pck_key: of the machine; signs the quoting enclave's report.
        chain: PEM of the PCK certificate, the intermediate and the root.
        root: PEM of the root alone, which a verifier trusts.
    """

    attestation_key: ec.EllipticCurvePrivateKey
    pck_key: ec.EllipticCurvePrivateKey
    chain: bytes
    root: bytes

    @classmethod
    def generate(cls) -> Self:
        """New keys and certificates."""
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
        attestation_key, pck, intermediate, root = keys
        root_pem = _certificate("Test SGX Root CA", root, "Test SGX Root CA", root, is_ca=True)
        middle = _certificate(
            "Test SGX PCK Platform CA", intermediate, "Test SGX Root CA", root, is_ca=True
        )
        leaf = _certificate(
            "Test SGX PCK Certificate", pck, "Test SGX PCK Platform CA", intermediate, is_ca=False
        )
        return cls(
            attestation_key=attestation_key,
            pck_key=pck,
            chain=leaf + middle + root_pem,
            root=root_pem,
        )

    def quote(self, td_report: bytes, *, version: int = 4, body_type: int = 2) -> bytes:
        """A quote over a TDREPORT.

        Args:
            td_report: 1024 bytes.
            version: 4 or 5.
            body_type: of version 5: 2 is TDX 1.0, 3 is TDX 1.5.
        """
        header = struct.pack("<HHI4x16s20s", version, 2, 0x81, INTEL_VENDOR_ID, b"\x11" * 16)
        body = _body(td_report)
        if version == 5:
            if body_type == 3:
                body += bytes(16) + bytes(48)
            body = struct.pack("<HI", body_type, len(body)) + body
        signed = header + body
        section = self._signature_section(signed)
        return signed + struct.pack("<I", len(section)) + section

    def _signature_section(self, signed: bytes) -> bytes:
        numbers = self.attestation_key.public_key().public_numbers()
        key = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        auth = bytes(range(32))
        binding = hashlib.sha256(key + auth).digest()
        qe_report = bytes(320) + binding + bytes(32)
        certificates = struct.pack("<HI", 5, len(self.chain)) + self.chain
        inner = b"".join(
            (
                qe_report,
                _raw_signature(self.pck_key, qe_report),
                struct.pack("<H", len(auth)) + auth,
                certificates,
            )
        )
        outer = struct.pack("<HI", 6, len(inner)) + inner
        return _raw_signature(self.attestation_key, signed) + key + outer


def _body(report: bytes) -> bytes:
    return b"".join(
        (
            bytes(16),
            b"\x01" * 48,
            bytes(48),
            bytes(8),
            report[512:528],
            report[528:720],
            report[720:912],
            report[128:192],
        )
    )


def _raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
