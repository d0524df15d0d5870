"""The files of a BlueField-3 DPU: PCI function, DICE certificates and alias key.

Source: docs/spec/attesters.md 14.2.
"""

import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

FUNCTION: Final = "sys/bus/pci/devices/0000:03:00.0"
CERTIFICATES: Final = "sys/class/infiniband/mlx5_0/device/attestation"
ALIAS_KEY: Final = "sys/kernel/security/tee/dice/alias_private_key"

SCALAR_BYTES: Final = 48

_DAY: Final = datetime.timedelta(days=1)


class BlueField:
    """One DPU; its alias certificate is issued by its device identity."""

    def __init__(self) -> None:
        """Make the keys."""
        self.alias = ec.generate_private_key(ec.SECP384R1())
        self.identity = ec.generate_private_key(ec.SECP384R1())

    def certificate(self, key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
        """One certificate, DER."""
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulated DPU")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .sign(self.identity, hashes.SHA384())
        )
        return certificate.public_bytes(Encoding.DER)

    def install(self, root: Path, *, product: str = "0xa2dc") -> None:
        """Put the files below `root`."""
        scalar = self.alias.private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")
        files = {
            f"{FUNCTION}/vendor": b"0x15b3\n",
            f"{FUNCTION}/device": f"{product}\n".encode(),
            f"{CERTIFICATES}/alias_cert": self.certificate(self.alias, "alias"),
            f"{CERTIFICATES}/device_id_cert": self.certificate(self.identity, "device"),
            ALIAS_KEY: scalar,
        }
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
