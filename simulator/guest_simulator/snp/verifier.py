"""What a KBS makes of SNP evidence. Sans-I/O.

The report is put together from its members; then signature, chain, patch levels, chip, report data
and init data are checked against a root that the verifier was given.

Source: docs/spec/attesters.md 4.1 and 4.5.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from guest_simulator.kbs.evidence import EvidenceError, InitData, Verified, verify_bound
from guest_simulator.snp.chip import CHIP_ID, LEVELS, REPORT_BYTES, SIGNED_BYTES

NUMBERS: Final = (
    (0x000, "<I", "version"), (0x004, "<I", "guest_svn"), (0x008, "<Q", "policy"),
    (0x030, "<I", "vmpl"), (0x034, "<I", "sig_algo"), (0x040, "<Q", "plat_info"),
    (0x048, "<I", "key_info"), (0x188, "<B", "cpuid_fam_id"), (0x189, "<B", "cpuid_mod_id"),
    (0x18A, "<B", "cpuid_step"), (0x1F8, "<Q", "launch_mit_vector"),
    (0x200, "<Q", "current_mit_vector"),
)  # fmt: skip
BYTES: Final = (
    (0x010, 16, "family_id"), (0x020, 16, "image_id"), (0x050, 64, "report_data"),
    (0x090, 48, "measurement"), (0x0C0, 32, "host_data"), (0x0E0, 48, "id_key_digest"),
    (0x110, 48, "author_key_digest"), (0x140, 32, "report_id"), (0x160, 32, "report_id_ma"),
    (0x1A0, 64, "chip_id"),
)  # fmt: skip
TCBS: Final = (
    (0x038, "current_tcb"), (0x180, "reported_tcb"), (0x1E0, "committed_tcb"),
    (0x1F0, "launch_tcb"),
)  # fmt: skip
OIDS: Final = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpVerifier:
    """A verifier for `Behaviour.verifiers["snp"]`.

    Attributes:
        certificates: ARK, ASK and VCEK, DER: what the verifier trusts, and what AMD's service
            gives it where evidence has no chain.
    """

    certificates: dict[str, bytes]

    def __call__(self, evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
        """Judge evidence; see `guest_simulator.kbs.evidence.Verifier`."""
        try:
            return self._judge(evidence, expected, init_data)
        except (LookupError, TypeError, ValueError, struct.error, InvalidSignature) as error:
            raise EvidenceError(f"SNP evidence: {error!r}") from error

    def _judge(self, evidence: Any, expected: bytes, init_data: InitData | None) -> Verified:
        members, chain = evidence["attestation_report"], evidence["cert_chain"]
        if members["version"] < 3:
            raise EvidenceError(
                "Attestation Report version is too old. Please update your firmware."
            )
        if members["vmpl"] != 0:
            raise EvidenceError("VMPL Check Failed")
        report = rebuild(members)
        self._verify(report, members, self._endorsement_key(chain))
        report_data, host_data = report[0x50:0x90], report[0xC0:0xE0]
        verify_bound(report_data, expected, "Report Data Mismatch")
        if init_data is not None:
            verify_bound(host_data, init_data.digest, "Host Data Mismatch")
        return Verified(
            claims={"measurement": report[0x90:0xC0].hex(), "chip_id": report[0x1A0:0x1E0].hex()},
            report_data=report_data.hex(),
            init_data=host_data.hex(),
        )

    def _endorsement_key(self, chain: Any) -> x509.Certificate:
        found = self.certificates
        if chain is not None:
            found = {str(entry["cert_type"]): bytes(entry["data"]) for entry in chain}
            if "VCEK" not in found:
                raise EvidenceError("If a cert chain is provided, it must include a VCEK/VLEK")
        certificate = x509.load_der_x509_certificate(found["VCEK"])
        middle = x509.load_der_x509_certificate(self.certificates["ASK"])
        certificate.verify_directly_issued_by(middle)
        middle.verify_directly_issued_by(x509.load_der_x509_certificate(self.certificates["ARK"]))
        return certificate

    def _verify(self, report: bytes, members: Any, certificate: x509.Certificate) -> None:
        verify_signature(report, certificate)
        said = {
            extension.oid.dotted_string: extension.value.value
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        for part, level in members["reported_tcb"].items():
            encoded = said.get(f"{LEVELS}{OIDS[part]}")
            if level != (None if encoded is None else int.from_bytes(encoded[2:], "big")):
                raise EvidenceError(f"Reported TCB {part} does not match the certificate")
        if said[CHIP_ID] != report[0x1A0:0x1E0]:
            raise EvidenceError("Chip ID mismatch")


def verify_signature(report: bytes, certificate: x509.Certificate) -> None:
    """Check that the chip of a certificate signed a report.

    Raises:
        ValueError: the certificate has another kind of key.
        InvalidSignature: it did not.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the chip's certificate has another kind of key")
    r = int.from_bytes(report[0x2A0:0x2E8], "little")
    s = int.from_bytes(report[0x2E8:0x330], "little")
    signature = encode_dss_signature(r, s)
    key.verify(signature, report[:SIGNED_BYTES], ec.ECDSA(hashes.SHA384()))


def check_report(certificates: Mapping[str, bytes]) -> Callable[[bytes, bytes], None]:
    """Checks of a report with the chip's certificate, which comes beside it.

    Args:
        certificates: ARK and ASK, DER, which are trusted.
    """

    def check(report: bytes, vcek: bytes) -> None:
        try:
            certificate = x509.load_der_x509_certificate(vcek)
            middle = x509.load_der_x509_certificate(certificates["ASK"])
            certificate.verify_directly_issued_by(middle)
            middle.verify_directly_issued_by(x509.load_der_x509_certificate(certificates["ARK"]))
            verify_signature(report, certificate)
        except (ValueError, InvalidSignature) as error:
            raise EvidenceError(f"SNP report: {error!r}") from error

    return check


def rebuild(members: Any) -> bytes:
    """The report that evidence describes; what evidence does not name is zero."""
    report = bytearray(REPORT_BYTES)
    for offset, form, name in NUMBERS:
        struct.pack_into(form, report, offset, members[name] or 0)
    for offset, length, name in BYTES:
        if len(members[name]) != length:
            raise ValueError(f"{name} has {len(members[name])} bytes")
        report[offset : offset + length] = bytes(members[name])
    for offset, name in TCBS:
        report[offset : offset + 8] = _tcb(members[name])
    for offset, name in ((0x1E8, "current"), (0x1EC, "committed")):
        parts = (members[name][part] for part in ("build", "minor", "major"))
        report[offset : offset + 3] = bytes(parts)
    report[0x2A0:0x2E8] = bytes(members["signature"]["r"])
    report[0x2E8:0x330] = bytes(members["signature"]["s"])
    if len(report) != REPORT_BYTES:
        raise ValueError("the signature has another length")
    return bytes(report)


def _tcb(levels: Any) -> bytes:
    if levels["fmc"] is None:
        front = (levels["bootloader"], levels["tee"], 0, 0, 0, 0, levels["snp"])
    else:
        front = (levels["fmc"], levels["bootloader"], levels["tee"], levels["snp"], 0, 0, 0)
    return bytes((*front, levels["microcode"]))
