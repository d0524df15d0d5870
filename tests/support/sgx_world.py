"""SGX enclaves for tests: simulated library operating systems, an attester on them, a verifier.

The verifier is written from Intel's layouts alone and shares nothing with the product.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.sgx import SgxAttester, open_sgx
from guest_simulator.machine import Machine
from guest_simulator.sgx.enclave import (
    ATTESTATION_TYPE,
    OCCLUM,
    QUOTE,
    USER_REPORT_DATA,
    Enclave,
    GramineQuote,
    GramineReportData,
    OcclumDevice,
)
from support.tdx_world import platform


@dataclass(kw_only=True)
class SgxWorld:
    """An enclave under Gramine, or under Occlum."""

    root: Path
    is_occlum: bool = False
    enclave: Enclave = field(default_factory=lambda: Enclave(platform=platform()))

    def __post_init__(self) -> None:
        self.machine = Machine(root=str(self.root))
        self.report_data = GramineReportData()
        self.occlum = OcclumDevice(enclave=self.enclave)
        if self.is_occlum:
            self.machine.devices[OCCLUM] = self.occlum
            return
        self.machine.files[USER_REPORT_DATA] = self.report_data
        self.machine.files[QUOTE] = GramineQuote(self.enclave, self.report_data)
        path = self.root / ATTESTATION_TYPE.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("dcap")

    def hints(self) -> TeeHints:
        """Where detection and attester look."""
        return TeeHints(root=str(self.root), kernel=self.machine, occlum=self.is_occlum)

    def attester(self) -> SgxAttester:
        """The product's attester on it."""
        return open_sgx(self.hints())


def verify_quote(quote: bytes, root_pem: bytes) -> bytes:
    """Check a version 3 quote down to a root certificate; gives the report data."""
    version, key_type, tee = struct.unpack_from("<HHI", quote)
    assert (version, key_type, tee) == (3, 2, 0)
    (length,) = struct.unpack_from("<I", quote, 432)
    section = quote[436:]
    assert len(section) == length
    key = ec.EllipticCurvePublicNumbers(
        int.from_bytes(section[64:96], "big"),
        int.from_bytes(section[96:128], "big"),
        ec.SECP256R1(),
    ).public_key()
    _verify(key, section[:64], quote[:432])
    report, signature = section[128:512], section[512:576]
    (auth_length,) = struct.unpack_from("<H", section, 576)
    auth = section[578 : 578 + auth_length]
    assert report[320:352] == hashlib.sha256(section[64:128] + auth).digest()
    kind, size = struct.unpack_from("<HI", section, 578 + auth_length)
    pem = section[584 + auth_length :]
    assert (kind, size) == (5, len(pem))
    leaf, middle, root = x509.load_pem_x509_certificates(pem)
    assert root == x509.load_pem_x509_certificate(root_pem)
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(root)
    leaf_key = leaf.public_key()
    assert isinstance(leaf_key, ec.EllipticCurvePublicKey)
    _verify(leaf_key, signature, report)
    return quote[48 + 320 : 48 + 384]


def _verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
