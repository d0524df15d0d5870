"""What an attester asks of an open TPM; `attestation_agent.hardware.tpm2` does it. Sans-I/O.

Apart from it, so that the TPM software stack is loaded with the first work and not before.

Source: docs/spec/attesters.md 5.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from attestation_agent.reports.tpm import PCRS


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A persistent RSA key.

    Attributes:
        object: as the stack knows it, in this session.
        modulus: of the public key.
        exponent: as the TPM writes it; 0 is 65537.
    """

    object: Any
    modulus: int
    exponent: int


class Quoted(msgspec.Struct, frozen=True, kw_only=True):
    """A quote, and the registers that it speaks of.

    Attributes:
        message: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        raw_signature: the RSA signature in it.
        pcrs: 24 values of 32 bytes.
    """

    message: bytes
    signature: bytes
    raw_signature: bytes
    pcrs: tuple[bytes, ...]


class TpmSession(Protocol):
    """An open TPM; each call blocks, and raises PlatformError where the TPM does not do it."""

    def find_key(self, handle: int) -> SigningKey:
        """The persistent key of a handle; there must be one, and RSA."""
        ...

    def read_pcrs(self, registers: Iterable[int] = range(PCRS)) -> tuple[bytes, ...]:
        """Values of the SHA-256 bank, all of one moment, in ascending order."""
        ...

    def extend_pcr(self, register: int, digest: bytes) -> None:
        """Extend a register of the SHA-256 bank."""
        ...

    def quote(self, key: SigningKey, nonce: bytes, *, own_scheme: bool = False) -> Quoted:
        """A quote over all registers of the SHA-256 bank, and their values at that moment."""
        ...

    def find_index_size(self, index: int) -> int | None:
        """Bytes of an NV index; None where it is not defined."""
        ...

    def read_index(self, index: int) -> bytes:
        """All of an NV index, by the owner's authorisation."""
        ...

    def write_index(self, index: int, data: bytes) -> None:
        """Make an NV index hold exactly `data`."""
        ...
