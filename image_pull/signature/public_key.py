"""Public keys of image signers and what they verify. Sans-I/O.

Source: docs/spec/image-pull.md 9.7; RFC 5280 section 4.1.2.7; RFC 8017 section 8.2; RFC 8032.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from guest.errors import DecodeError, IntegrityError
from guest.wire import decode_base64

MAX_KEY: Final = 64 * 1024
"""Most bytes of a PEM file."""

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16384
BEGIN: Final = b"-----BEGIN"

Key = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class SignerKey:
    """One public key; its kind decides algorithm and hash."""

    key: Key

    @classmethod
    def decode(cls, pem: bytes) -> "SignerKey":
        """Read one PEM block of SubjectPublicKeyInfo.

        Raises:
            DecodeError: not that, several, or a kind that image signatures do not have.
        """
        if len(pem) > MAX_KEY or pem.count(BEGIN) != 1:
            raise DecodeError("signer's key is not one PEM block")
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DecodeError("signer's key is not a public key in PEM") from error
        if isinstance(key, ec.EllipticCurvePublicKey):
            if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
                return cls(key)
            raise DecodeError(f"signer's key is on the curve {key.curve.name}, not supported")
        if isinstance(key, rsa.RSAPublicKey):
            if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                return cls(key)
            raise DecodeError(f"signer's RSA key has {key.key_size} bits")
        if isinstance(key, ed25519.Ed25519PublicKey):
            return cls(key)
        raise DecodeError("signer's key is of a kind that is not supported")

    @classmethod
    def from_policy(cls, text: str) -> "SignerKey":
        """Read `keyData`: PEM text, or base64 of it.

        Raises:
            DecodeError: neither, or as `decode`.
        """
        if text.lstrip().startswith(BEGIN.decode()):
            try:
                return cls.decode(text.encode("ascii"))
            except UnicodeEncodeError as error:
                raise DecodeError("keyData is not ASCII") from error
        return cls.decode(decode_base64("".join(text.split()), "keyData"))

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Require that `signature` is this key's over `signed`.

        Raises:
            IntegrityError: it is not.
        """
        try:
            match self.key:
                case ec.EllipticCurvePublicKey():
                    is_p384 = isinstance(self.key.curve, ec.SECP384R1)
                    hashed = hashes.SHA384() if is_p384 else hashes.SHA256()
                    self.key.verify(signature, signed, ec.ECDSA(hashed))
                case rsa.RSAPublicKey():
                    self.key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
                case ed25519.Ed25519PublicKey():
                    self.key.verify(signature, signed)
        except (InvalidSignature, ValueError) as error:
            raise IntegrityError("signature is not by the policy's key") from error
