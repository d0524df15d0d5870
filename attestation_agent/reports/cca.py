"""The attestation token of an Arm CCA realm: what it binds. Sans-I/O.

A token is a map of two COSE_Sign1 messages, the platform's and the realm's, under a tag. Nothing
is verified here but the form: that is the verifier's.

Source: docs/spec/attesters.md 10; Realm Management Monitor specification, "CCA attestation token".
"""

from dataclasses import dataclass
from typing import Final, Self

from attestation_agent.reports import cbor
from attestation_agent.reports.cbor import Tagged, Value
from guest.errors import DecodeError

CHALLENGE_BYTES: Final = 64

PLATFORM_TOKEN: Final = 44234
REALM_TOKEN: Final = 44241
CHALLENGE: Final = 10
"""Claim of the realm token."""

_SIGN1_PARTS: Final = 4
"""Protected and unprotected header, payload, signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaToken:
    """What an attester looks at.

    Attributes:
        challenge: the 64 bytes that the realm token binds.
    """

    challenge: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a token.

        Raises:
            DecodeError: not CBOR, not a token of both parts, or its challenge is not 64 bytes.
        """
        parts = _without_tags(cbor.decode(data))
        if not isinstance(parts, dict):
            raise DecodeError("CCA token: no map")
        _payload(parts, PLATFORM_TOKEN)
        claims = cbor.decode(_payload(parts, REALM_TOKEN))
        challenge = claims.get(CHALLENGE) if isinstance(claims, dict) else None
        if not isinstance(challenge, bytes) or len(challenge) != CHALLENGE_BYTES:
            raise DecodeError("CCA token: no challenge of 64 bytes")
        return cls(challenge=challenge)


def _payload(parts: dict[int | str | bytes, Value], key: int) -> bytes:
    """Payload of one of the two signed messages."""
    part = parts.get(key)
    if isinstance(part, tuple) and len(part) > 1:
        part = part[1]  # newer collections: media type, then message
    if not isinstance(part, bytes):
        raise DecodeError(f"CCA token: no part {key}")
    message = _without_tags(cbor.decode(part))
    if not isinstance(message, tuple) or len(message) != _SIGN1_PARTS:
        raise DecodeError(f"CCA token: part {key} is no COSE_Sign1")
    payload = message[2]
    if not isinstance(payload, bytes):
        raise DecodeError(f"CCA token: part {key} has no payload")
    return payload


def _without_tags(value: Value) -> Value:
    while isinstance(value, Tagged):
        value = value.value
    return value
