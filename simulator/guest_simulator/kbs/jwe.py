"""The KBS's answer: a flattened JWE for the guest's key. Sans-I/O.

Randomness comes in as an argument. Header members stand in the one order that every client
takes.

Source: docs/spec/kbs-protocol.md §6; RFC 7516; RFC 7518 §4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from guest_simulator.encoding import EncodingError, b64url_decode, b64url_encode, compact_json
from guest_simulator.kbs.keccak import kmac256

KEY_LENGTH: Final = 32
IV_LENGTH: Final = 12
TAG_LENGTH: Final = 16
ECDH: Final = "ECDH-ES+A256KW"
ML_KEM: Final = "ML-KEM-768+A192KW"
CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-521": (ec.SECP521R1(), 66),
}
"""Curve and bytes of a coordinate by `crv`."""

RandomBytes = Callable[[int], bytes]


class JweError(ValueError):
    """A key that nothing can be encrypted for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A wrapped content key: what the header adds, and the encrypted key."""

    header: Mapping[str, object]
    encrypted_key: bytes


def encrypt_for(
    jwk: Mapping[str, str],
    plaintext: bytes,
    random: RandomBytes,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """The `Response` JSON for a TEE key.

    Args:
        jwk: as `normalise_tee_key` gives it.
        plaintext: the resource.
        random: gives so many random bytes; asked for 32 (content key), then 12 (IV).
        ephemeral: the sender's key for ECDH; made anew when absent.

    Raises:
        JweError: an algorithm or key that is not supported.
    """
    content_key, iv = random(KEY_LENGTH), random(IV_LENGTH)
    wrapped = _wrap(jwk, content_key, ephemeral)
    header = {"alg": jwk["alg"], "enc": "A256GCM", **wrapped.header}
    protected = b64url_encode(compact_json(header))
    sealed = AESGCM(content_key).encrypt(iv, plaintext, protected.encode("ascii"))
    return compact_json(
        {
            "protected": protected,
            "encrypted_key": b64url_encode(wrapped.encrypted_key),
            "iv": b64url_encode(iv),
            "ciphertext": b64url_encode(sealed[:-TAG_LENGTH]),
            "tag": b64url_encode(sealed[-TAG_LENGTH:]),
        }
    )


def _wrap(
    jwk: Mapping[str, str], content_key: bytes, ephemeral: ec.EllipticCurvePrivateKey | None
) -> Wrapped:
    try:
        match jwk["kty"], jwk["alg"]:
            case "EC", "ECDH-ES+A256KW":
                return _wrap_ecdh(jwk, content_key, ephemeral)
            case "RSA", ("RSA-OAEP-256" | "RSA1_5") as algorithm:
                return _wrap_rsa(jwk, content_key, algorithm)
            case "AKP", "ML-KEM-768+A192KW":
                return _wrap_ml_kem(jwk, content_key)
    except (EncodingError, ValueError) as error:
        raise JweError(f"bad TEE key: {error}") from error
    raise JweError(f"no JWE for a {jwk['kty']} key with {jwk['alg']}")


def concat_kdf(secret: bytes, algorithm: str) -> bytes:
    """The 32-byte key-encryption key of ECDH-ES, with empty apu and apv (RFC 7518 §4.6.2)."""
    name = algorithm.encode("ascii")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"\0\0\0\1" + secret + len(name).to_bytes(4, "big") + name)
    digest.update(bytes(8) + (8 * KEY_LENGTH).to_bytes(4, "big"))
    return digest.finalize()


def _wrap_ecdh(
    jwk: Mapping[str, str], content_key: bytes, ephemeral: ec.EllipticCurvePrivateKey | None
) -> Wrapped:
    if jwk["crv"] not in CURVES:
        raise JweError(f"unsupported curve {jwk['crv']}")
    curve, size = CURVES[jwk["crv"]]
    x, y = b64url_decode(jwk["x"]), b64url_decode(jwk["y"])
    if (len(x), len(y)) != (size, size):
        raise JweError(f"a {jwk['crv']} coordinate has {size} bytes")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
    )
    own = ephemeral or ec.generate_private_key(curve)
    secret = own.exchange(ec.ECDH(), numbers.public_key())
    point = own.public_key().public_numbers()
    epk = {
        "crv": jwk["crv"],
        "kty": "EC",
        "x": b64url_encode(point.x.to_bytes(size, "big")),
        "y": b64url_encode(point.y.to_bytes(size, "big")),
    }
    wrapped = aes_key_wrap(concat_kdf(secret, ECDH), content_key)
    return Wrapped(header={"epk": epk}, encrypted_key=wrapped)


def _wrap_rsa(jwk: Mapping[str, str], content_key: bytes, algorithm: str) -> Wrapped:
    n, e = (int.from_bytes(b64url_decode(jwk[name]), "big") for name in ("n", "e"))
    key = rsa.RSAPublicNumbers(e, n).public_key()
    if algorithm == "RSA1_5":
        return Wrapped(header={}, encrypted_key=key.encrypt(content_key, padding.PKCS1v15()))
    sha256 = hashes.SHA256()
    oaep = padding.OAEP(padding.MGF1(sha256), sha256, None)
    return Wrapped(header={}, encrypted_key=key.encrypt(content_key, oaep))


def _wrap_ml_kem(jwk: Mapping[str, str], content_key: bytes) -> Wrapped:
    public = mlkem.MLKEM768PublicKey.from_public_bytes(b64url_decode(jwk["pub"]))
    secret, ciphertext = public.encapsulate()
    wrapped = aes_key_wrap(ml_kem_kdf(secret), content_key)
    return Wrapped(header={"ek": b64url_encode(ciphertext)}, encrypted_key=wrapped)


def ml_kem_kdf(secret: bytes) -> bytes:
    """The 24-byte key-wrapping key of ML-KEM-768+A192KW."""
    name = ML_KEM.encode("ascii")
    context = len(name).to_bytes(4, "big") + name + (192).to_bytes(4, "big")
    return kmac256(secret, context, 24)
