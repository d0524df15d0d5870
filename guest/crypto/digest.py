"""Digests: a value together with its algorithm. Sans-I/O.

Source: OCI image-spec "Digests"; docs/spec/kbs-protocol.md 3.2 and 4.2 (the four algorithms).
"""

import hashlib
import hmac
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from guest.errors import DecodeError, IntegrityError
from guest.wire import decode_hex


class Hasher(Protocol):
    """A computation under way."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """The value of all bytes so far; more may follow."""

    def hexdigest(self) -> str:
        """The same as lower-case digits."""


class HashAlgorithm(StrEnum):
    """The algorithms that a peer may name; the value is the wire's spelling."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    SM3 = "sm3"

    @property
    def length(self) -> int:
        """Bytes of a value."""
        return _LENGTHS[self]

    def new(self) -> Hasher:
        """Begin a computation."""
        if self is HashAlgorithm.SM3:
            return _Sm3()
        return hashlib.new(self.value)

    def of(self, data: bytes | bytearray | memoryview) -> "Digest":
        """The digest of bytes at hand."""
        hasher = self.new()
        hasher.update(data)
        return Digest(self, hasher.digest())


_LENGTHS: Final = {
    HashAlgorithm.SHA256: 32,
    HashAlgorithm.SHA384: 48,
    HashAlgorithm.SHA512: 64,
    HashAlgorithm.SM3: 32,
}


class _Sm3:
    """SM3 of `cryptography`, because not every Python's hashlib has it."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives import hashes

        self._hash = hashes.Hash(hashes.SM3())

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._hash.update(bytes(data))

    def digest(self) -> bytes:
        return self._hash.copy().finalize()

    def hexdigest(self) -> str:
        return self.digest().hex()


class Digest(msgspec.Struct, frozen=True):
    """One digest.

    Attributes:
        algorithm: what computed it.
        value: as many bytes as the algorithm gives.
    """

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != self.algorithm.length:
            raise DecodeError(
                f"{self.algorithm} digest has {len(self.value)} bytes, "
                f"expected {self.algorithm.length}"
            )

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read `<algorithm>:<lower-case digits>`.

        Raises:
            DecodeError: unknown algorithm, upper case, or another length.
        """
        name, _, digits = text.partition(":")
        try:
            algorithm = HashAlgorithm(name)
        except ValueError as error:
            raise DecodeError(f"not a digest: {text[:80]!r}") from error
        if digits != digits.lower():
            raise DecodeError(f"not a digest: {text[:80]!r}")
        return cls(algorithm, decode_hex(digits, "digest"))

    @property
    def hex(self) -> str:
        """The value as lower-case digits."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm.value}:{self.value.hex()}"

    def verify(self, computed: bytes, what: str) -> None:
        """Compare with what was computed over `what`.

        Raises:
            IntegrityError: the values differ.
        """
        if not hmac.compare_digest(self.value, computed):
            raise IntegrityError(
                f"digest of {what} does not match: expected {self}, found {computed.hex()}"
            )
