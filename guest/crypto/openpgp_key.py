"""The public key of an OpenPGP key packet, and the signatures over text that it verifies. Sans-I/O.

For the one case that the library does not have: a key whose owner has renewed its own signature,
on its life say, after the signature at hand was made. The library looks for one from before.

Source: docs/spec/image-pull.md 9.6; RFC 4880 sections 5.2.2, 5.2.4, 5.5.2, 13.2; RFC 9580
sections 5.2.3.4 and 5.5.5.9 (Ed25519).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from guest.errors import DecodeError, IntegrityError
from guest.wire import Cursor

RSA: Final = (1, 3)
ECDSA: Final = 19
EDDSA: Final = 22
ED25519: Final = 27
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16384

HASHES: Final[Mapping[int, Callable[[], hashes.HashAlgorithm]]] = MappingProxyType(
    {8: hashes.SHA256, 9: hashes.SHA384, 10: hashes.SHA512}
)
CURVES: Final[Mapping[bytes, Callable[[], ec.EllipticCurve]]] = MappingProxyType(
    {
        bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1,
        bytes.fromhex("2b81040022"): ec.SECP384R1,
        bytes.fromhex("2b81040023"): ec.SECP521R1,
    }
)
"""Object identifier to curve."""

ED25519_OID: Final = bytes.fromhex("2b06010401da470f01")
NATIVE: Final = 0x40
"""What a point of Ed25519 begins with."""

Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class PacketKey:
    """The key of one packet."""

    key: Key

    @classmethod
    def decode(cls, body: bytes) -> "PacketKey":
        """Read the body of a public-key packet of version 4.

        Raises:
            DecodeError: another version or algorithm, malformed, or an RSA key too short.
        """
        cursor = Cursor(body, "OpenPGP key")
        version = cursor.unsigned(1)
        cursor.take(4)
        algorithm = cursor.unsigned(1)
        if version != 4:
            raise DecodeError(f"OpenPGP key is of version {version}")
        try:
            key = _key(cursor, algorithm)
        except (ValueError, OverflowError, UnsupportedAlgorithm) as error:
            raise DecodeError("OpenPGP key is malformed") from error
        cursor.finish()
        return cls(key)

    def verify(self, signature: bytes, content: bytes) -> None:
        """Require that the body of a signature packet is this key's over `content`.

        Args:
            signature: of version 4, which `SignedMessage` has checked.
            content: the signed bytes.

        Raises:
            DecodeError: the body is malformed, or for another kind of key.
            IntegrityError: the signature is not good.
        """
        cursor = Cursor(signature, "OpenPGP signature")
        _, _, algorithm, digest_kind = cursor.take(4)
        cursor.take(cursor.unsigned(2))
        hashed = signature[: cursor.offset]
        cursor.take(cursor.unsigned(2))
        left = cursor.take(2)
        if digest_kind not in HASHES:
            raise DecodeError(f"OpenPGP signature is over a digest of kind {digest_kind}")
        kind = HASHES[digest_kind]()
        hasher = hashes.Hash(kind)
        for part in (content, hashed, b"\x04\xff", len(hashed).to_bytes(4, "big")):
            hasher.update(part)
        digest = hasher.finalize()
        if digest[:2] != left:
            raise IntegrityError("OpenPGP signature is over another text")
        try:
            self._verify(cursor, algorithm, digest, kind)
        except (InvalidSignature, ValueError, OverflowError) as error:
            raise IntegrityError("OpenPGP signature is not good") from error
        cursor.finish()

    def _verify(
        self, cursor: Cursor, algorithm: int, digest: bytes, kind: hashes.HashAlgorithm
    ) -> None:
        match self.key:
            case rsa.RSAPublicKey() if algorithm in RSA:
                value = _number(cursor).to_bytes((self.key.key_size + 7) // 8, "big")
                self.key.verify(value, digest, padding.PKCS1v15(), utils.Prehashed(kind))
            case ec.EllipticCurvePublicKey() if algorithm == ECDSA:
                pair = utils.encode_dss_signature(_number(cursor), _number(cursor))
                self.key.verify(pair, digest, ec.ECDSA(utils.Prehashed(kind)))
            case ed25519.Ed25519PublicKey() if algorithm == EDDSA:
                halves = [_number(cursor).to_bytes(32, "big") for _ in range(2)]
                self.key.verify(b"".join(halves), digest)
            case ed25519.Ed25519PublicKey() if algorithm == ED25519:
                self.key.verify(cursor.take(64), digest)
            case _:
                raise DecodeError("OpenPGP signature is for another kind of key")


def _key(cursor: Cursor, algorithm: int) -> Key:
    if algorithm in RSA:
        modulus, exponent = _number(cursor), _number(cursor)
        if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
            raise DecodeError(f"OpenPGP RSA key has {modulus.bit_length()} bits")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if algorithm == ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(cursor.take(32))
    if algorithm not in (ECDSA, EDDSA):
        raise DecodeError(f"OpenPGP key is of the algorithm {algorithm}, not supported")
    curve = cursor.take(cursor.unsigned(1))
    point = _number_bytes(cursor)
    if algorithm == EDDSA:
        if curve != ED25519_OID or len(point) != 33 or point[0] != NATIVE:
            raise DecodeError("OpenPGP EdDSA key is not on Ed25519")
        return ed25519.Ed25519PublicKey.from_public_bytes(point[1:])
    if curve not in CURVES:
        raise DecodeError(f"OpenPGP key is on the curve {curve.hex()}, not supported")
    return ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve](), point)


def _number_bytes(cursor: Cursor) -> bytes:
    return cursor.take((cursor.unsigned(2) + 7) // 8)


def _number(cursor: Cursor) -> int:
    return int.from_bytes(_number_bytes(cursor), "big")
