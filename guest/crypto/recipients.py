"""JWE for the public keys of several recipients, as owners wrap layer keys. Sans-I/O.

Source: docs/spec/ocicrypt.md 9.1; RFC 7516 section 7.2; RFC 7518 section 4.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from guest import jsonio, wire
from guest.errors import DecodeError
from guest.secret import Secret

MAX_KEY_LENGTH: Final = 64 * 1024
"""Bytes of the longest file with a public key that is read."""

MIN_RSA_BITS: Final = 2048
CURVES: Final = ("P-256", "P-384", "P-521")
RSA_ALGORITHMS: Final = ("RSA-OAEP", "RSA-OAEP-256")
EC_ALGORITHMS: Final = ("ECDH-ES+A256KW", "ECDH-ES+A128KW", "ECDH-ES+A192KW")
CONTENT_ENCRYPTION: Final = "A256GCM"


class RecipientKey:
    """One recipient's public key and the algorithm that wraps for it.

    Attributes:
        algorithm: the `alg` of its header: what a JWK names, else `ECDH-ES+A256KW` or `RSA-OAEP`.
    """

    __slots__ = ("algorithm", "key")

    def __init__(self, key: Any, algorithm: str) -> None:
        """Wrap a key of joserfc; `decode` makes one."""
        self.key = key
        self.algorithm = algorithm

    @classmethod
    def decode(cls, data: bytes) -> "RecipientKey":
        """Read PEM, DER (SubjectPublicKeyInfo) or a JWK; of a private JWK the public half.

        Raises:
            DecodeError: not such a key, or of a kind that wraps nothing.
        """
        if len(data) > MAX_KEY_LENGTH:
            raise DecodeError(f"public key is longer than {MAX_KEY_LENGTH} bytes")
        members = _members(data)
        key = _import(members, data)
        members = dict(key.as_dict(private=False)) | {"alg": members.get("alg")}
        if members["kty"] == "EC":
            if members.get("crv") not in CURVES:
                raise DecodeError(f"public key is on the curve {members.get('crv')}")
            return cls(key, _algorithm(members["alg"], EC_ALGORITHMS))
        return cls(key, _algorithm(members["alg"], RSA_ALGORITHMS))


def seal_for(plaintext: Secret, keys: Sequence[RecipientKey]) -> bytes:
    """Encrypt for every key: JSON in the flattened form for one, in the general form for more.

    Args:
        plaintext: what every recipient shall read.
        keys: at least one.
    """
    assert keys
    from joserfc import jwe

    algorithms = {key.algorithm for key in keys}
    registry = jwe.JWERegistry(algorithms=[*algorithms, CONTENT_ENCRYPTION])
    if len(keys) == 1:
        header = {"alg": keys[0].algorithm, "enc": CONTENT_ENCRYPTION}
        text = jwe.encrypt_compact(header, plaintext.reveal(), keys[0].key, registry=registry)
        names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
        return msgspec.json.encode(dict(zip(names, text.split("."), strict=True)))
    message = jwe.GeneralJSONEncryption({"enc": CONTENT_ENCRYPTION}, plaintext.reveal())
    for key in keys:
        message.add_recipient({"alg": key.algorithm}, key.key)
    general: Mapping[str, Any] = dict(jwe.encrypt_json(message, None, registry=registry))
    order = ("protected", "recipients", "iv", "ciphertext", "tag")
    return msgspec.json.encode({name: general[name] for name in order})


def _members(data: bytes) -> dict[str, Any]:
    if not data.lstrip().startswith(b"{"):
        return {}
    jsonio.check(data, max_depth=8, max_bytes=MAX_KEY_LENGTH)
    found: dict[str, Any] = json.loads(data)
    return found


def _import(members: dict[str, Any], data: bytes) -> Any:
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    try:
        if members:
            public: dict[str, str | list[str]] = {
                name: str(members[name])
                for name in ("kty", "crv", "x", "y", "n", "e")
                if isinstance(members.get(name), str)
            }
            if public.get("kty") == "EC":
                return ECKey.import_key(public)
            if public.get("kty") == "RSA":
                modulus = wire.decode_base64url(str(public.get("n", "")), "modulus")
                _check_bits(int.from_bytes(modulus).bit_length())
                return RSAKey.import_key(public)
            raise DecodeError("JWK is neither EC nor RSA")
        is_pem = b"-----BEGIN" in data
        load = serialization.load_pem_public_key if is_pem else serialization.load_der_public_key
        loaded = load(data)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = loaded.public_bytes(serialization.Encoding.PEM, form)
        if isinstance(loaded, rsa.RSAPublicKey):
            _check_bits(loaded.key_size)
            return RSAKey.import_key(pem)
        if isinstance(loaded, ec.EllipticCurvePublicKey):
            return ECKey.import_key(pem)
        raise DecodeError("public key is neither EC nor RSA")
    except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError) as error:
        raise DecodeError("public key is not readable PEM, DER or JWK") from error


def _check_bits(bits: int) -> None:
    """Before joserfc sees it, which would only warn."""
    if bits < MIN_RSA_BITS:
        raise DecodeError(f"public RSA key has {bits} bits, fewer than {MIN_RSA_BITS}")


def _algorithm(named: object, known: tuple[str, ...]) -> str:
    if named is None:
        return known[0]
    if named not in known:
        raise DecodeError(f"{str(named)[:40]} is an unsupported JWE key algorithm")
    return str(named)
