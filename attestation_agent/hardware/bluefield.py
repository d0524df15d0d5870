"""A BlueField DPU as sysfs and securityfs show it.

Source: docs/spec/attesters.md 14.2.
"""

import errno
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.nvidia_dpu import MAX_CERTIFICATE_BYTES, SCALAR_BYTES, verify_der
from guest.errors import DecodeError, PlatformError
from guest.secret import Secret

PCI_DEVICES: Final = "/sys/bus/pci/devices"
CERTIFICATES: Final = "/sys/class/infiniband/mlx5_0/device/attestation"
ALIAS_KEY: Final = "/sys/kernel/security/tee/dice/alias_private_key"

VENDOR: Final = "0x15b3"
PRODUCTS: Final = ("0xa2dc", "0xa2da")

MAX_NUMBER_BYTES: Final = 32

ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)


def is_there(directory: str, kernel: KernelCalls) -> bool:
    """Whether the PCI bus has a DPU; `directory` is `PCI_DEVICES` or the same in another tree.

    Raises:
        PlatformError: that cannot be told.
    """
    steps = Steps()
    try:
        with steps.at(directory, "list"):
            names = kernel.list_names(directory)
    except PlatformError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in ABSENT:
            return False
        raise
    return any(_is_dpu(f"{directory}/{name}", kernel, steps) for name in names)


def _is_dpu(function: str, kernel: KernelCalls, steps: Steps) -> bool:
    if _number(f"{function}/vendor", kernel, steps) != VENDOR:
        return False
    return _number(f"{function}/device", kernel, steps) in PRODUCTS


def _number(path: str, kernel: KernelCalls, steps: Steps) -> str:
    with steps.at(path, "read"):
        return kernel.read(path, MAX_NUMBER_BYTES).decode("ascii", "replace").strip()


class BlueField:
    """Certificates and key of the one DPU; nothing is kept."""

    def __init__(self, certificates: str, alias_key: str, kernel: KernelCalls) -> None:
        """Read nothing; the paths are `CERTIFICATES` and `ALIAS_KEY` or the same elsewhere."""
        self._certificates = certificates
        self._alias_key = alias_key
        self._kernel = kernel

    def certificate(self, name: str, steps: Steps) -> bytes:
        """`alias_cert` or `device_id_cert`, DER.

        Raises:
            PlatformError: it cannot be read, or is something else.
        """
        path = f"{self._certificates}/{name}"
        with steps.at(path, "read"):
            content = self._kernel.read(path, MAX_CERTIFICATE_BYTES + 1)
        if len(content) > MAX_CERTIFICATE_BYTES:
            text = f"more than {MAX_CERTIFICATE_BYTES} bytes"
            raise PlatformError(f"{path}: read: EBADMSG ({text})")
        try:
            verify_der(content)
        except DecodeError as error:
            raise PlatformError(f"{path}: read: EBADMSG ({error})") from error
        return content

    def sign(self, data: bytes, alias: bytes, steps: Steps) -> tuple[int, int]:
        """The alias key's ECDSA signature, P-384 and SHA-384, as r and s.

        Args:
            data: what is signed, as it is.
            alias: the certificate that must be this key's.
            steps: where this is.

        Raises:
            PlatformError: the key cannot be read, is none, or the certificate is another's.
        """
        path = self._alias_key
        with steps.at(path, "read"):
            scalar = Secret(self._kernel.read(path, SCALAR_BYTES + 1))
        with scalar:
            if len(scalar) != SCALAR_BYTES:
                raise PlatformError(f"{path}: read: EBADMSG (not {SCALAR_BYTES} bytes)")
            try:
                key = ec.derive_private_key(int.from_bytes(scalar.reveal(), "big"), ec.SECP384R1())
            except ValueError:
                # Without its cause, which may quote the key.
                raise PlatformError(f"{path}: read: EBADMSG (no key of P-384)") from None
        x = key.public_key().public_numbers().x.to_bytes(SCALAR_BYTES, "big")
        if x not in alias:
            raise PlatformError(f"{path}: read: EBADMSG (alias_cert is another key's)")
        return decode_dss_signature(_signature(key, data))


def _signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """By RFC 6979, which needs no luck with random numbers, where OpenSSL has it."""
    try:
        return key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    except UnsupportedAlgorithm:
        return key.sign(data, ec.ECDSA(hashes.SHA384()))
