"""JWE and JWS: opening what a KBS sends, and the door to joserfc for everything else. Sans-I/O.

A KBS's answer is opened with `cryptography` directly. joserfc cannot: for the JSON form it
writes the protected header anew to get the authenticated data, where RFC 7516 section 5.2 step
14 takes the received text; it refuses `protected` texts and bodies beyond its own limits; and it
warns, process-wide, of RSA1_5 and of EdDSA. joserfc, loaded with its first use, verifies JWS.

Source: docs/spec/kbs-protocol.md section 6; RFC 7516; RFC 7518; RFC 7515.
"""

import hashlib
import struct
from typing import Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from guest import jsonio
from guest.crypto import aead, kmac
from guest.crypto.keys import TeeKey
from guest.errors import DecodeError, IntegrityError
from guest.secret import Secret
from guest.wire import decode_base64url, encode_base64url

MAX_JWE_LENGTH: Final = 8 * 1024 * 1024
"""Bytes of the longest answer that is read."""

MAX_HEADER_LENGTH: Final = 16 * 1024
"""Bytes of the longest protected header, encoded."""

CEK_LENGTH: Final = 32
IV_LENGTH: Final = 12
_EC_ALGORITHM: Final = "ECDH-ES+A256KW"
_ML_KEM_ALGORITHM: Final = "ML-KEM-768+A192KW"
_ML_KEM_CIPHERTEXT_LENGTH: Final = 1088
_ML_KEM_WRAPPING_LENGTH: Final = 24
_WRAPPED_LENGTH: Final = CEK_LENGTH + 8
_NO_MATCH: Final = "JWE was not made for this key, or was changed"

_KDF_INFO: Final = (
    struct.pack(">I", len(_EC_ALGORITHM))
    + _EC_ALGORITHM.encode("ascii")
    + struct.pack(">III", 0, 0, 256)
)
_ML_KEM_KDF_DATA: Final = (
    struct.pack(">I", len(_ML_KEM_ALGORITHM))
    + _ML_KEM_ALGORITHM.encode("ascii")
    + struct.pack(">I", 8 * _ML_KEM_WRAPPING_LENGTH)
)
_CURVES: Final = {"P-256": (ec.SECP256R1(), 32), "P-521": (ec.SECP521R1(), 66)}
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_RSA_PADDINGS: Final = {
    "RSA-OAEP-256": _OAEP,
    # Compat: a KBS that was told `"alg":"RSA1_5"` answers so; we never tell it, but can read it.
    "RSA1_5": padding.PKCS1v15(),
}


class _Jwe(msgspec.Struct, frozen=True, kw_only=True):
    protected: str
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str
    aad: str | None = None


class _EphemeralKey(msgspec.Struct, frozen=True, kw_only=True):
    kty: str
    crv: str
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    alg: str
    enc: str
    epk: _EphemeralKey | None = None
    ek: str | None = None
    crit: msgspec.Raw | None = None
    zip: msgspec.Raw | None = None


def open_jwe(text: bytes, key: TeeKey) -> Secret:
    """Open a flattened JWE that was made for this key.

    Takes some microseconds for each KiB: beyond 64 KiB not on the event loop.

    Args:
        text: UTF-8 JSON; members besides those of RFC 7516's flattened form are skipped.
        key: the pair whose public half the KBS was given.

    Raises:
        DecodeError: not such a JWE, not for A256GCM, or not for this kind of key.
        IntegrityError: made for another key, or changed on its way.
    """
    jwe = jsonio.decode(text, _Jwe, max_bytes=MAX_JWE_LENGTH)
    header = _header(jwe.protected)
    wrapped = decode_base64url(jwe.encrypted_key, "encrypted_key")
    iv = decode_base64url(jwe.iv, "iv")
    tag = decode_base64url(jwe.tag, "tag")
    ciphertext = decode_base64url(jwe.ciphertext, "ciphertext")
    aad = jwe.protected
    if jwe.aad is not None:
        decode_base64url(jwe.aad, "aad")
        aad = f"{aad}.{jwe.aad}"
    with _unwrap(header, wrapped, key) as content_key:
        try:
            return aead.open_sealed(content_key, iv, ciphertext, tag, aad.encode("ascii"))
        except IntegrityError as error:
            raise IntegrityError(_NO_MATCH) from error


def _header(protected: str) -> _Header:
    if len(protected) > MAX_HEADER_LENGTH:
        raise DecodeError(f"protected header is longer than {MAX_HEADER_LENGTH} bytes")
    header = jsonio.decode(decode_base64url(protected, "protected"), _Header)
    if header.enc != "A256GCM":
        raise DecodeError(f"JWE has enc {header.enc[:40]!r}, expected 'A256GCM'")
    if header.crit is not None or header.zip is not None:
        raise DecodeError("JWE header has crit or zip, which are not understood")
    return header


def _unwrap(header: _Header, wrapped: bytes, key: TeeKey) -> Secret:
    private = key.private
    if isinstance(private, rsa.RSAPrivateKey):
        return _unwrap_rsa(header, wrapped, private)
    is_ml_kem = isinstance(private, mlkem.MLKEM768PrivateKey)
    expected, kind = (_ML_KEM_ALGORITHM, "AKP") if is_ml_kem else (_EC_ALGORITHM, "EC")
    if header.alg != expected:
        raise DecodeError(f"JWE has alg {header.alg[:40]!r}, but the key is {kind}")
    if len(wrapped) != _WRAPPED_LENGTH:
        raise DecodeError(f"encrypted_key has {len(wrapped)} bytes, expected {_WRAPPED_LENGTH}")
    if isinstance(private, mlkem.MLKEM768PrivateKey):
        wrapping_key = _decapsulate(header.ek, private)
    else:
        shared = private.exchange(ec.ECDH(), _ephemeral_key(header.epk, key.curve))
        wrapping_key = Secret(hashlib.sha256(b"\0\0\0\1" + shared + _KDF_INFO).digest())
    try:
        with wrapping_key:
            return Secret(aes_key_unwrap(wrapping_key.reveal(), wrapped))
    except InvalidUnwrap as error:
        raise IntegrityError(_NO_MATCH) from error


def _decapsulate(ek: str | None, private: mlkem.MLKEM768PrivateKey) -> Secret:
    """The wrapping key of ML-KEM; a ciphertext for another key gives one that unwraps nothing."""
    if ek is None:
        raise DecodeError("JWE header has no ek")
    ciphertext = decode_base64url(ek, "ek")
    if len(ciphertext) != _ML_KEM_CIPHERTEXT_LENGTH:
        raise DecodeError(f"ek has {len(ciphertext)} bytes, not {_ML_KEM_CIPHERTEXT_LENGTH}")
    with Secret(private.decapsulate(ciphertext)) as shared:
        return kmac.kmac256(shared, _ML_KEM_KDF_DATA, _ML_KEM_WRAPPING_LENGTH)


def _unwrap_rsa(header: _Header, wrapped: bytes, private: rsa.RSAPrivateKey) -> Secret:
    scheme = _RSA_PADDINGS.get(header.alg)
    if scheme is None:
        raise DecodeError(f"JWE has alg {header.alg[:40]!r}, but the key is RSA")
    if len(wrapped) != (private.key_size + 7) // 8:
        raise DecodeError(f"encrypted_key has {len(wrapped)} bytes, not the modulus's length")
    try:
        content_key = private.decrypt(wrapped, scheme)
    except ValueError as error:
        raise IntegrityError(_NO_MATCH) from error
    if len(content_key) != CEK_LENGTH:
        raise IntegrityError(_NO_MATCH)
    return Secret(content_key)


def _ephemeral_key(epk: _EphemeralKey | None, curve: str | None) -> ec.EllipticCurvePublicKey:
    if epk is None or curve is None:
        raise DecodeError("JWE header has no epk")
    if epk.kty != "EC" or epk.crv != curve:
        raise DecodeError(f"JWE is for the curve {epk.crv[:20]!r}, the key's is {curve}")
    form, length = _CURVES[curve]
    x, y = decode_base64url(epk.x, "epk x"), decode_base64url(epk.y, "epk y")
    if len(x) != length or len(y) != length:
        raise DecodeError(f"epk has coordinates of another length than {length} bytes")
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), form)
    try:
        return numbers.public_key()
    except ValueError as error:
        raise DecodeError("epk is not a point of its curve") from error


class SigningKey:
    """An Ed25519 key that signs the tokens of an owner's tool; prints nothing."""

    __slots__ = ("_key",)

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        """Wrap a key that was read."""
        self._key = key

    @classmethod
    def from_pem(cls, pem: Secret) -> "SigningKey":
        """Read a PKCS#8 private key without a password.

        Raises:
            DecodeError: not an Ed25519 private key.
        """
        try:
            key = load_pem_private_key(pem.reveal(), password=None)
        except Exception as error:  # the library names no closed set
            raise DecodeError("signing key is not readable PEM") from error
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise DecodeError("signing key is not an Ed25519 private key")
        return cls(key)

    def sign_jwt(self, claims: dict[str, object]) -> Secret:
        """A JWT with the header `{"alg":"EdDSA","typ":"JWT"}` and the claims in their order."""
        parts = (b'{"alg":"EdDSA","typ":"JWT"}', msgspec.json.encode(claims))
        signed = ".".join(encode_base64url(part) for part in parts)
        signature = self._key.sign(signed.encode("ascii"))
        return Secret(f"{signed}.{encode_base64url(signature)}".encode("ascii"))


def verify_es256(text: bytes, jwk: bytes) -> bytes:
    """Verify a compact JWS that a P-256 key must have signed.

    Args:
        text: three parts of unpadded base64url; the header's unknown members are skipped, but
            `crit` and `"b64": false` are refused.
        jwk: one JWK as JSON; its private part, if any, is not looked at.

    Returns:
        The payload.

    Raises:
        DecodeError: not a JWS with `alg` ES256, or not a P-256 JWK.
        IntegrityError: the key did not sign this.
    """
    from joserfc import jws
    from joserfc.errors import BadSignatureError, JoseError
    from joserfc.jwk import ECKey

    parts = text.split(b".")
    if len(parts) != 3:
        raise DecodeError(f"JWS has {len(parts)} parts, expected 3")
    header, payload, signature = (decode_base64url(part, "JWS part") for part in parts)
    found = jsonio.decode(header, dict[str, object])
    if found.get("alg") != "ES256" or "crit" in found or found.get("b64", True) is not True:
        raise DecodeError("JWS is not plain ES256")
    if len(signature) != 64:
        raise DecodeError(f"signature has {len(signature)} bytes, expected 64")
    members = jsonio.decode(jwk, dict[str, object])
    if members.get("kty") != "EC" or members.get("crv") != "P-256":
        raise DecodeError("key is not a P-256 JWK")
    public: dict[str, str | list[str]] = {
        name: str(members.get(name)) for name in ("kty", "crv", "x", "y")
    }
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    # The library's own limits (512 and 128,000 bytes) are below what callers may send.
    registry.max_header_length = registry.max_payload_length = len(text)
    try:
        key = ECKey.import_key(public)
        jws.deserialize_compact(text, key, registry=registry)
    except BadSignatureError as error:
        raise IntegrityError("signature does not match") from error
    except (JoseError, ValueError, TypeError) as error:
        raise DecodeError("JWS or its key is not usable") from error
    return payload
