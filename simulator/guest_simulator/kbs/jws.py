"""Compact JWS with ES256 and EdDSA: sign and verify. Sans-I/O.

Source: RFC 7515; RFC 7518 §3.4; RFC 8037 §3.1; docs/spec/kbs-protocol.md §7, §13.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256

from guest_simulator.encoding import (
    EncodingError,
    b64url_decode,
    b64url_encode,
    compact_json,
    parse_object,
)

COORDINATE: Final = 32
"""Bytes of a P-256 coordinate and of half an ES256 signature."""

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class JwsError(ValueError):
    """A token that is malformed or whose signature is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jws:
    """A parsed token, nothing of it verified.

    Attributes:
        signed: the ASCII bytes that the signature covers.
    """

    header: Mapping[str, object]
    claims: Mapping[str, object]
    signed: bytes
    signature: bytes


def parse_jws(token: str) -> Jws:
    """Split and decode a compact JWS whose payload is a JSON object.

    Raises:
        JwsError: anything else.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise JwsError("a token has three parts")
    try:
        header, claims = (parse_object(b64url_decode(part)) for part in parts[:2])
        signature = b64url_decode(parts[2])
    except EncodingError as error:
        raise JwsError(str(error)) from error
    signed = ".".join(parts[:2]).encode("ascii")
    return Jws(header=header, claims=claims, signed=signed, signature=signature)


def sign_jws(header: Mapping[str, object], claims: Mapping[str, object], key: PrivateKey) -> str:
    """Sign claims; ES256 for a P-256 key (RFC 6979 nonces), EdDSA for an Ed25519 key.

    The header is taken as it is and must name the algorithm that fits the key.
    """
    signed = ".".join(b64url_encode(compact_json(part)) for part in (header, claims))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signed.encode("ascii"))
    else:
        algorithm = ec.ECDSA(SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(key.sign(signed.encode("ascii"), algorithm))
        signature = r.to_bytes(COORDINATE, "big") + s.to_bytes(COORDINATE, "big")
    return f"{signed}.{b64url_encode(signature)}"


def verify_jws(jws: Jws, key: PublicKey) -> None:
    """Check the signature; the header's `alg` must be the one that belongs to the key.

    Raises:
        JwsError: it does not verify.
    """
    wanted = "EdDSA" if isinstance(key, ed25519.Ed25519PublicKey) else "ES256"
    if jws.header.get("alg") != wanted:
        raise JwsError(f"alg is not {wanted}")
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(jws.signature, jws.signed)
        else:
            key.verify(_der(jws.signature), jws.signed, ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise JwsError("the signature does not verify") from error


def _der(signature: bytes) -> bytes:
    if len(signature) != 2 * COORDINATE:
        raise JwsError("an ES256 signature has 64 bytes")
    r, s = signature[:COORDINATE], signature[COORDINATE:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def es256_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, object]:
    """The JWK of a P-256 signer, members in the order Trustee writes them."""
    numbers = key.public_numbers()
    x, y = (b64url_encode(n.to_bytes(COORDINATE, "big")) for n in (numbers.x, numbers.y))
    return {"alg": "ES256", "kty": "EC", "crv": "P-256", "x": x, "y": y}


def key_from_jwk(jwk: object) -> PublicKey:
    """The public key of an ES256 or EdDSA JWK; `alg` is mandatory, as the KBS has it.

    Raises:
        JwsError: not such a JWK.
    """
    if not isinstance(jwk, Mapping):
        raise JwsError("no JWK")
    try:
        if (jwk.get("kty"), jwk.get("crv"), jwk.get("alg")) == ("OKP", "Ed25519", "EdDSA"):
            return ed25519.Ed25519PublicKey.from_public_bytes(b64url_decode(str(jwk.get("x"))))
        if (jwk.get("kty"), jwk.get("crv"), jwk.get("alg")) != ("EC", "P-256", "ES256"):
            raise JwsError("a JWK of another kind")
        x, y = (int.from_bytes(b64url_decode(str(jwk.get(n))), "big") for n in ("x", "y"))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise JwsError(f"bad JWK: {error}") from error
