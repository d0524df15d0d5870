"""What a TPM quote says, as far as an attester needs to read it. Sans-I/O.

Nothing here checks a signature: that is the verifier's part. The attester checks that the quote
binds what it was asked to bind, and the registers that go with it.

Source: docs/spec/attesters.md 5.3, 6.2 and 6.3 (TPM 2.0 Library, Part 2, 10.12).
"""

import hashlib
from collections.abc import Sequence
from typing import Final, Self

import msgspec

from guest.errors import DecodeError
from guest.wire import Cursor

PCRS: Final = 24
DIGEST_BYTES: Final = 32
"""Bytes of a register in the SHA-256 bank."""

INIT_DATA_PCR: Final = 8
"""The register that init data is bound by."""

FIRST_LOCKED: Final = 17
LAST_LOCKED: Final = 22
"""Registers 17 to 22 are other localities'; they start as all ones."""

MAX_QUOTE_BYTES: Final = 4096

_GENERATED: Final = b"\xff\x54\x43\x47"
_QUOTE: Final = 0x8018
_CLOCK_BYTES: Final = 8 + 4 + 4 + 1
_SHA256: Final = 0x000B
_MAX_SELECTIONS: Final = 16


class PcrSelection(msgspec.Struct, frozen=True, kw_only=True):
    """Registers of one bank.

    Attributes:
        algorithm: of the bank, a TPM_ALG_ID.
        registers: their numbers, ascending.
    """

    algorithm: int
    registers: tuple[int, ...]


class TpmQuote(msgspec.Struct, frozen=True, kw_only=True):
    """A TPMS_ATTEST of a quote.

    Attributes:
        nonce: what the caller bound.
        selections: which registers were quoted.
        digest: over their values, in ascending order.
    """

    nonce: bytes
    selections: tuple[PcrSelection, ...]
    digest: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the signed message.

        Raises:
            DecodeError: cut short, too long, or no quote.
        """
        if len(data) > MAX_QUOTE_BYTES:
            raise DecodeError(f"TPM quote of {len(data)} bytes, at most {MAX_QUOTE_BYTES}")
        cursor = Cursor(data, "TPM quote")
        if cursor.take(4) != _GENERATED or cursor.unsigned(2) != _QUOTE:
            raise DecodeError("TPM attestation that is no quote")
        _sized(cursor)
        nonce = _sized(cursor)
        cursor.take(_CLOCK_BYTES + 8)
        selections = _selections(cursor)
        digest = _sized(cursor)
        cursor.finish()
        return cls(nonce=nonce, selections=selections, digest=digest)

    def covers(self, values: Sequence[bytes]) -> bool:
        """Whether these are the values, and all registers of the SHA-256 bank were quoted."""
        whole = PcrSelection(algorithm=_SHA256, registers=tuple(range(PCRS)))
        if self.selections != (whole,) or len(values) != PCRS:
            return False
        return hashlib.sha256(b"".join(values)).digest() == self.digest


def _sized(cursor: Cursor) -> bytes:
    return cursor.take(cursor.unsigned(2))


def _selections(cursor: Cursor) -> tuple[PcrSelection, ...]:
    count = cursor.unsigned(4)
    if count > _MAX_SELECTIONS:
        raise DecodeError(f"TPM quote of {count} banks")
    return tuple(_selection(cursor) for _ in range(count))


def _selection(cursor: Cursor) -> PcrSelection:
    algorithm = cursor.unsigned(2)
    bits = int.from_bytes(cursor.take(cursor.unsigned(1)), "little")
    registers = tuple(number for number in range(bits.bit_length()) if bits >> number & 1)
    return PcrSelection(algorithm=algorithm, registers=registers)


def start_value(register: int) -> bytes:
    """What a register holds before anything was measured."""
    locked = FIRST_LOCKED <= register <= LAST_LOCKED
    return (b"\xff" if locked else b"\0") * DIGEST_BYTES


def bound_value(digest: bytes) -> bytes:
    """What the register of init data holds once `digest` was bound."""
    return hashlib.sha256(bytes(DIGEST_BYTES) + digest).digest()


def encode_public_key(modulus: int, exponent: int) -> bytes:
    """An RSA key as SubjectPublicKeyInfo, DER; exponent 0 means 65537, as a TPM writes it.

    Raises:
        DecodeError: these are no numbers of a key.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = RSAPublicNumbers(exponent or 65537, modulus).public_key()
    except ValueError as error:
        raise DecodeError(f"RSA key: {error}") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
