"""P-256 keys that sign sealed secrets: made, read and written as JWK. Sans-I/O.

Signatures are deterministic, so that sealing the same thing twice gives the same text.

Source: docs/spec/confidential-data-hub.md 1.5 and 7.1; RFC 7518 sections 3.4 and 6.2; RFC 6979.
"""

from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from guest import jsonio
from guest.errors import DecodeError
from guest.secret import Secret
from guest.wire import decode_base64url, encode_base64url

LENGTH: Final = 32
"""Bytes of a coordinate, of the private scalar and of each half of a signature."""

MAX_JWK_LENGTH: Final = 64 * 1024


class Es256Key:
    """One private key; immutable, prints nothing."""

    __slots__ = ("_private",)

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        """Wrap a key on P-256 that was made or read."""
        self._private = private

    @classmethod
    def generate(cls) -> "Es256Key":
        """Make a key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_jwk(cls, data: Secret) -> "Es256Key":
        """Read the JSON of a private JWK; `kid`, `use` and other members are skipped.

        Raises:
            DecodeError: no P-256 key, no private part, or a public part that is not its own.
        """
        members = jsonio.decode(data.reveal(), dict[str, object], max_bytes=MAX_JWK_LENGTH)
        if members.get("kty") != "EC" or members.get("crv") != "P-256":
            raise DecodeError("JWK is not a P-256 key")
        if "d" not in members:
            raise DecodeError("JWK has no private part")
        d, x, y = (_integer(members, name) for name in ("d", "x", "y"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
        try:
            return cls(ec.EllipticCurvePrivateNumbers(d, public).private_key())
        except ValueError:
            raise DecodeError("JWK's public and private parts are no pair") from None

    def sign(self, message: bytes) -> bytes:
        """The signature `r || s` of 64 bytes over a message of any length."""
        form = ec.ECDSA(SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(self._private.sign(message, form))
        return r.to_bytes(LENGTH) + s.to_bytes(LENGTH)

    def public_jwk(self, kid: str) -> bytes:
        """The JSON for whoever verifies, indented, with a line end."""
        return _pretty(self._members(kid, ()))

    def private_jwk(self, kid: str) -> Secret:
        """The JSON for whoever seals, indented, with a line end."""
        scalar = self._private.private_numbers().private_value.to_bytes(LENGTH)
        return Secret(_pretty(self._members(kid, (("d", encode_base64url(scalar)),))))

    def _members(self, kid: str, private: tuple[tuple[str, str], ...]) -> dict[str, str]:
        point = self._private.public_key().public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "alg": "ES256",
            "use": "sig",
            "kid": kid,
            **dict(private),
            "x": encode_base64url(point.x.to_bytes(LENGTH)),
            "y": encode_base64url(point.y.to_bytes(LENGTH)),
        }

    def __repr__(self) -> str:
        return "<Es256Key>"


def _integer(members: dict[str, object], name: str) -> int:
    text = members.get(name)
    if not isinstance(text, str):
        raise DecodeError(f"JWK has no {name}")
    value = decode_base64url(text, f"JWK's {name}")
    if len(value) != LENGTH:
        raise DecodeError(f"JWK's {name} has {len(value)} bytes, expected {LENGTH}")
    return int.from_bytes(value)


def _pretty(members: dict[str, str]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(members), indent=2) + b"\n"
