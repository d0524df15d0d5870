"""SNP guests for tests: a simulated machine, an attester on it, and a verifier of its own kind.

The verifier is written from AMD's layouts alone and shares nothing with the product.
"""

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.snp import SnpAttester, open_snp
from guest_simulator.machine import Machine
from guest_simulator.snp.chip import Chip, Launch
from guest_simulator.snp.device import PATH, SevGuest
from guest_simulator.tdx.tsm import TsmReports


@functools.cache
def chip(name: str = "Milan") -> Chip:
    """One processor of each generation for all tests; its keys take a while to make."""
    return Chip.generate(name)


@dataclass(kw_only=True)
class SnpWorld:
    """A guest and its machine; the attributes may change at any time.

    Attributes:
        table: what certificates the host has for the chip.
        transform: what becomes of a report on its way.
        seconds: what a report takes.
    """

    root: Path
    chip: Chip = field(default_factory=chip)
    launch: Launch = field(default_factory=Launch)
    has_configfs: bool = True
    has_device: bool = True
    table: bytes = b""
    transform: Callable[[bytes], bytes] | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.device = SevGuest(generate=self.report, table=lambda: self.table)
        self.reports = TsmReports(self.report, provider="sev_guest", auxiliary=lambda: self.table)
        self.machine = Machine(
            root=str(self.root),
            reports=self.reports if self.has_configfs else None,
            devices={PATH: self.device} if self.has_device else {},
        )

    def report(self, report_data: bytes) -> bytes:
        """What the firmware makes of 64 bytes."""
        self.device.seconds = self.seconds if self.machine.reports is None else 0.0
        report = self.chip.report(self.launch, report_data)
        return report if self.transform is None else self.transform(report)

    def hints(self) -> TeeHints:
        """Where detection and attester look."""
        return TeeHints(root=str(self.root), kernel=self.machine)

    def attester(self) -> SnpAttester:
        """The product's attester on it."""
        return open_snp(self.hints())


SCALARS = {
    "version": (0x000, "<I"), "guest_svn": (0x004, "<I"), "policy": (0x008, "<Q"),
    "vmpl": (0x030, "<I"), "sig_algo": (0x034, "<I"), "plat_info": (0x040, "<Q"),
    "key_info": (0x048, "<I"), "cpuid_fam_id": (0x188, "<B"), "cpuid_mod_id": (0x189, "<B"),
    "cpuid_step": (0x18A, "<B"), "launch_mit_vector": (0x1F8, "<Q"),
    "current_mit_vector": (0x200, "<Q"),
}  # fmt: skip
ARRAYS = {
    "family_id": (0x010, 16), "image_id": (0x020, 16), "report_data": (0x050, 64),
    "measurement": (0x090, 48), "host_data": (0x0C0, 32), "id_key_digest": (0x0E0, 48),
    "author_key_digest": (0x110, 48), "report_id": (0x140, 32), "report_id_ma": (0x160, 32),
    "chip_id": (0x1A0, 64),
}  # fmt: skip
TCBS = {"current_tcb": 0x038, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
FIRMWARE = {"current": 0x1E8, "committed": 0x1EC}
MEMBERS = {*SCALARS, *ARRAYS, *TCBS, *FIRMWARE, "signature"}


def rebuild(members: dict[str, Any]) -> bytes:
    """The binary report that the members of `attestation_report` describe."""
    assert set(members) == MEMBERS
    report = bytearray(1184)
    for name, (offset, form) in SCALARS.items():
        if members[name] is not None:
            struct.pack_into(form, report, offset, members[name])
    for name, (offset, length) in ARRAYS.items():
        assert len(members[name]) == length
        report[offset : offset + length] = bytes(members[name])
    for name, offset in TCBS.items():
        tcb = members[name]
        assert set(tcb) == {"fmc", "bootloader", "tee", "snp", "microcode"}
        if tcb["fmc"] is None:
            parts = (tcb["bootloader"], tcb["tee"], 0, 0, 0, 0, tcb["snp"])
        else:
            parts = (tcb["fmc"], tcb["bootloader"], tcb["tee"], tcb["snp"], 0, 0, 0)
        report[offset : offset + 8] = bytes((*parts, tcb["microcode"]))
    for name, offset in FIRMWARE.items():
        version = members[name]
        packed = bytes((version["build"], version["minor"], version["major"]))
        report[offset : offset + 3] = packed
    for name, offset in (("r", 0x2A0), ("s", 0x2E8)):
        assert len(members["signature"][name]) == 72
        report[offset : offset + 72] = bytes(members["signature"][name])
    return bytes(report)


def verify_signature(report: bytes, endorsement_key: bytes) -> None:
    """Check a report with the DER certificate of the chip."""
    key = x509.load_der_x509_certificate(endorsement_key).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r = int.from_bytes(report[0x2A0:0x2E8], "little")
    s = int.from_bytes(report[0x2E8:0x330], "little")
    key.verify(encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(hashes.SHA384()))


def verify(evidence: dict[str, Any], of: Chip) -> bytes:
    """Check evidence down to the chip's root as a verifier does; gives the report."""
    report = rebuild(evidence["attestation_report"])
    chain = evidence["cert_chain"]
    found = of.certificates
    if chain is not None:
        found = {entry["cert_type"]: bytes(entry["data"]) for entry in chain}
    endorsement = x509.load_der_x509_certificate(found["VCEK"])
    signer = x509.load_der_x509_certificate(found.get("ASK", of.certificates["ASK"]))
    root = x509.load_der_x509_certificate(of.certificates["ARK"])
    endorsement.verify_directly_issued_by(signer)
    signer.verify_directly_issued_by(root)
    verify_signature(report, found["VCEK"])
    extensions = {
        extension.oid.dotted_string: extension.value.value
        for extension in endorsement.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    prefix = "1.3.6.1.4.1.3704.1"
    numbers = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
    for part, level in evidence["attestation_report"]["reported_tcb"].items():
        encoded = extensions.get(f"{prefix}.3.{numbers[part]}")
        assert level == (None if encoded is None else int.from_bytes(encoded[2:], "big"))
    assert extensions[f"{prefix}.4"] == report[0x1A0:0x1E0]
    return report
