"""The key pair of one attestation: as JWK for the verifier, as PEM between AA and CDH. Sans-I/O.

ML-KEM keys have no PEM form upstream. Ours is PKCS#8 with the seed, for our own parts alone; they
need ML-KEM of OpenSSL and KMAC256, and where one is missing no such key is made or read.

Source: docs/spec/kbs-protocol.md section 5; RFC 7518 section 6; RFC 9935 section 6.
"""

from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from guest.crypto import kmac
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.errors import DecodeError, UnsupportedError
from guest.secret import Secret
from guest.wire import encode_base64url

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | mlkem.MLKEM768PrivateKey

RSA_BITS: Final = 2048
RSA_EXPONENT: Final = 65537
MAX_RSA_BITS: Final = 8192
MAX_PEM_LENGTH: Final = 16 * 1024
"""Bytes of the longest private key that is read."""

_COORDINATE_LENGTHS: Final = {"P-256": 32, "P-521": 66}
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp521r1": "P-521"}
_CURVE_ALGORITHMS: Final = {"P-256": TeeKeyAlgorithm.EC_P256, "P-521": TeeKeyAlgorithm.EC_P521}


class TeeKey:
    """One private key; immutable, prints nothing.

    Attributes:
        algorithm: its kind.
        private: the key of the library, for the code that opens answers.
    """

    __slots__ = ("algorithm", "private")

    def __init__(self, private: PrivateKey) -> None:
        """Wrap a key that was made or read.

        Raises:
            UnsupportedError: a curve or modulus that no peer of ours uses; an ML-KEM key that
                could not open an answer here.
        """
        self.private: Final = private
        self.algorithm: Final = _algorithm(private)

    @classmethod
    def generate(cls, algorithm: TeeKeyAlgorithm) -> "TeeKey":
        """Make a key. RSA takes tenths of a second: not on the event loop.

        Raises:
            UnsupportedError: ML-KEM, where a library for it is missing.
        """
        match algorithm:
            case TeeKeyAlgorithm.EC_P256:
                return cls(ec.generate_private_key(ec.SECP256R1()))
            case TeeKeyAlgorithm.EC_P521:
                return cls(ec.generate_private_key(ec.SECP521R1()))
            case TeeKeyAlgorithm.RSA:
                return cls(rsa.generate_private_key(RSA_EXPONENT, RSA_BITS))
            case TeeKeyAlgorithm.ML_KEM_768:
                return cls(_generate_ml_kem())

    @classmethod
    def from_pem(cls, pem: Secret) -> "TeeKey":
        """Read PKCS#1, PKCS#8 or SEC1 without a password.

        Raises:
            DecodeError: not such a key, or of a kind that is not ours or cannot be used here.
        """
        if len(pem) > MAX_PEM_LENGTH:
            raise DecodeError(f"private key is longer than {MAX_PEM_LENGTH} bytes")
        try:
            private = load_pem_private_key(pem.reveal(), password=None)
        except Exception as error:  # the library names no closed set
            raise DecodeError("private key is not readable PEM") from error
        if not isinstance(private, PrivateKey):
            raise DecodeError("private key is neither EC nor RSA nor ML-KEM-768")
        try:
            return cls(private)
        except UnsupportedError as error:
            raise DecodeError(str(error)) from error

    @property
    def curve(self) -> str | None:
        """`P-256` or `P-521`; None for RSA and ML-KEM."""
        if not isinstance(self.private, ec.EllipticCurvePrivateKey):
            return None
        return _CURVE_NAMES[self.private.curve.name]

    def jwk(self) -> dict[str, str]:
        """The public key with exactly the members that the KBS re-serialises, `kty` first."""
        private = self.private
        if isinstance(private, rsa.RSAPrivateKey):
            numbers = private.public_key().public_numbers()
            return {
                "kty": "RSA",
                "alg": "RSA-OAEP-256",
                "n": _encode_integer(numbers.n),
                "e": _encode_integer(numbers.e),
            }
        if isinstance(private, mlkem.MLKEM768PrivateKey):
            public = encode_base64url(private.public_key().public_bytes_raw())
            return {"kty": "AKP", "alg": TeeKeyAlgorithm.ML_KEM_768.value, "pub": public}
        curve = _CURVE_NAMES[private.curve.name]
        length = _COORDINATE_LENGTHS[curve]
        point = private.public_key().public_numbers()
        return {
            "kty": "EC",
            "crv": curve,
            "alg": "ECDH-ES+A256KW",
            "x": encode_base64url(point.x.to_bytes(length)),
            "y": encode_base64url(point.y.to_bytes(length)),
        }

    def to_pem(self) -> Secret:
        """The private key, LF line ends: PKCS#1 for RSA, PKCS#8 for the others."""
        is_rsa = isinstance(self.private, rsa.RSAPrivateKey)
        form = PrivateFormat.TraditionalOpenSSL if is_rsa else PrivateFormat.PKCS8
        return Secret(self.private.private_bytes(Encoding.PEM, form, NoEncryption()))

    def __repr__(self) -> str:
        return f"<TeeKey {self.algorithm.value}>"


def _generate_ml_kem() -> mlkem.MLKEM768PrivateKey:
    try:
        return mlkem.MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm as error:
        raise UnsupportedError("the installed OpenSSL has no ML-KEM-768") from error


def _algorithm(private: PrivateKey) -> TeeKeyAlgorithm:
    if isinstance(private, mlkem.MLKEM768PrivateKey):
        kmac.verify_available()
        return TeeKeyAlgorithm.ML_KEM_768
    if isinstance(private, rsa.RSAPrivateKey):
        if not RSA_BITS <= private.key_size <= MAX_RSA_BITS:
            raise UnsupportedError(f"RSA key of {private.key_size} bits")
        return TeeKeyAlgorithm.RSA
    curve = _CURVE_NAMES.get(private.curve.name)
    if curve is None:
        raise UnsupportedError(f"key on the curve {private.curve.name}")
    return _CURVE_ALGORITHMS[curve]


def _encode_integer(value: int) -> str:
    return encode_base64url(value.to_bytes((value.bit_length() + 7) // 8))
