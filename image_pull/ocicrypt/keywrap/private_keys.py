"""Private keys for key-wrap schemes, in the forms that owners have them.

Source: docs/spec/ocicrypt.md §9.1 (DER, PEM, JWK) and 9.4 (key files of tokens).
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_pem_private_key,
)

from guest import jsonio, wire
from guest.errors import DecodeError
from guest.secret import Secret

MAX_KEY: Final = 64 * 1024
"""Most bytes of a key's text."""

TOKEN: Final = b"pkcs11:"
"""How the YAML begins that names a key in a token."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    crv: str = ""
    d: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    p: str = ""
    q: str = ""


def decode_private_key(text: Secret) -> PrivateKey:
    """Read PEM, DER or a JWK.

    Raises:
        DecodeError: not an RSA or EC private key in one of these forms, or it has a password.
    """
    if len(text) > MAX_KEY:
        raise DecodeError(f"private key is longer than {MAX_KEY} bytes")
    stripped = text.reveal().lstrip()
    if stripped.startswith(b"{"):
        return _from_jwk(stripped)
    if stripped.startswith(TOKEN):
        raise DecodeError("private key is in a PKCS#11 token, and a guest has none")
    if is_openpgp(text):
        raise DecodeError("private key is an OpenPGP key")
    load = load_pem_private_key if stripped.startswith(b"-----") else load_der_private_key
    try:
        key = load(text.reveal(), None)
    except TypeError:
        raise DecodeError("Missing password for encrypted private key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise DecodeError("not a private key in PEM, DER or JWK form") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise DecodeError("private key is neither RSA nor EC")
    return key


def is_openpgp(text: Secret) -> bool:
    """Whether this is an OpenPGP key, armored or not; none of the other forms begins so."""
    data = text.reveal().lstrip(b" \t\r\n")
    return data.startswith(b"-----BEGIN PGP") or data[:1] >= b"\x80"


def rsa_keys(texts: Sequence[Secret], scheme: str) -> tuple[rsa.RSAPrivateKey, ...]:
    """The RSA keys among private keys, for a scheme that knows no others.

    Raises:
        DecodeError: there is none; the text says what the first ones are instead.
    """
    found: list[rsa.RSAPrivateKey] = []
    reasons: list[str] = []
    for text in texts:
        try:
            key = decode_private_key(text)
        except DecodeError as error:
            reasons.append(str(error))
            continue
        if isinstance(key, rsa.RSAPrivateKey):
            found.append(key)
        else:
            reasons.append("private key is not RSA")
    if not found:
        why = "; ".join(sorted(set(reasons))[:3])
        raise DecodeError(": ".join([f"No private keys found for {scheme} decryption", why]))
    return tuple(found)


def _from_jwk(text: bytes) -> PrivateKey:
    try:
        jwk = jsonio.decode(text, _Jwk)
    except DecodeError:
        # its cause would quote the key
        raise DecodeError("not a private key in JWK form") from None
    try:
        if jwk.kty == "EC" and jwk.crv in _CURVES:
            public = ec.EllipticCurvePublicNumbers(
                _integer(jwk.x), _integer(jwk.y), _CURVES[jwk.crv]
            )
            return ec.EllipticCurvePrivateNumbers(_integer(jwk.d), public).private_key()
        if jwk.kty == "RSA":
            n, e, d = _integer(jwk.n), _integer(jwk.e), _integer(jwk.d)
            p, q = _integer(jwk.p), _integer(jwk.q)
            return rsa.RSAPrivateNumbers(
                p,
                q,
                d,
                rsa.rsa_crt_dmp1(d, p),
                rsa.rsa_crt_dmq1(d, q),
                rsa.rsa_crt_iqmp(p, q),
                rsa.RSAPublicNumbers(e, n),
            ).private_key()
    except (ValueError, ZeroDivisionError):
        raise DecodeError("JWK has no valid private key") from None
    raise DecodeError(f"JWK has the unsupported kty {jwk.kty[:20]!r} or curve")


def _integer(text: str) -> int:
    if not text:
        raise ValueError("a member of the JWK is missing")
    return int.from_bytes(wire.decode_base64url(text, "member of a JWK"))
