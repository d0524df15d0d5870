"""The sealed secret: a compact JWS behind a prefix, and the two payloads it may carry. Sans-I/O.

Nothing here verifies a signature: what comes out is only as good as the check that follows.

Source: docs/spec/confidential-data-hub.md 7.1 to 7.3; RFC 7515 section 7.1.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Self, TypeAlias

import msgspec

from guest import jsonio, wire
from guest.errors import DecodeError

PREFIX: Final = b"sealed."
VERSION: Final = "0.1.0"
"""The only version of payloads."""

ALGORITHM: Final = "ES256"

MAX_LENGTH: Final = 4 * 1024 * 1024
"""Most bytes of one sealed secret; more does not fit into a call."""

MAX_HEADER_LENGTH: Final = 16 * 1024
MAX_KEY_LENGTH: Final = 64 * 1024
"""Most bytes of a JWK's JSON."""

MAX_DEPTH: Final = 16
SIGNATURE_LENGTH: Final = 64
COORDINATE_LENGTH: Final = 32

_SPACE: Final = b" \t\n\r\v\f"
_MALFORMED: Final = "malformed input sealed secret format (json deserialization failed)"


class SecretType(StrEnum):
    """How the payload leads to the secret."""

    ENVELOPE = "envelope"
    VAULT = "vault"


class _Kind(msgspec.Struct, frozen=True):
    version: str
    type: SecretType


class _VaultJson(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    provider: str
    provider_settings: dict[str, object] = {}
    annotations: dict[str, object] = {}


class _EnvelopeJson(msgspec.Struct, frozen=True, kw_only=True):
    key_id: str
    encrypted_key: str
    encrypted_data: str
    wrap_type: str
    iv: str
    provider: str
    provider_settings: dict[str, object] = {}
    annotations: dict[str, object] = {}


class VaultSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A pointer: the secret lies with a provider, under a name.

    Attributes:
        name: for `kbs` a resource URI.
        provider: who keeps it; compared in any case.
        provider_settings: for the provider; public.
        annotations: for the provider; public.
    """

    name: str
    provider: str
    provider_settings: Mapping[str, object] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, object] = msgspec.field(default_factory=dict)

    def encode(self) -> bytes:
        """Compact JSON in the order of the specification."""
        return msgspec.json.encode(
            {
                "version": VERSION,
                "type": SecretType.VAULT,
                "name": self.name,
                "provider": self.provider,
                "provider_settings": dict(self.provider_settings),
                "annotations": dict(self.annotations),
            }
        )


class EnvelopeSecret(msgspec.Struct, frozen=True, kw_only=True):
    """The secret itself, encrypted with a key that a provider can decrypt.

    Attributes:
        key_id: what the provider calls its key.
        encrypted_key: the data key, as the provider encrypted it.
        encrypted_data: the secret; for GCM the 16-byte tag is its end.
        wrap_type: as written, judged when it is opened: `A256GCM` or `A256CTR`.
        iv: 12 bytes for GCM, 16 for CTR.
        provider: who decrypts the data key; compared in any case.
        provider_settings: for the provider; public.
        annotations: for the provider; public.
    """

    key_id: str
    encrypted_key: bytes
    encrypted_data: bytes
    wrap_type: str
    iv: bytes
    provider: str
    provider_settings: Mapping[str, object] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, object] = msgspec.field(default_factory=dict)

    def encode(self) -> bytes:
        """Compact JSON in the order of the specification."""
        return msgspec.json.encode(
            {
                "version": VERSION,
                "type": SecretType.ENVELOPE,
                "key_id": self.key_id,
                "encrypted_key": wire.encode_base64(self.encrypted_key),
                "encrypted_data": wire.encode_base64(self.encrypted_data),
                "wrap_type": self.wrap_type,
                "iv": wire.encode_base64(self.iv),
                "provider": self.provider,
                "provider_settings": dict(self.provider_settings),
                "annotations": dict(self.annotations),
            }
        )


Payload: TypeAlias = VaultSecret | EnvelopeSecret


def decode_payload(data: bytes) -> Payload:
    """Read the JSON of a payload; unknown members are skipped.

    Args:
        data: what was signed; empty is an error of its own.

    Raises:
        DecodeError: no such object, another version, a member twice, base64 that is not strict.
    """
    if not data:
        raise DecodeError("Could not find JWS Payload")
    try:
        kind = jsonio.decode(data, _Kind, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
        if kind.version != VERSION:
            raise DecodeError(f"version not supported, only {VERSION} supported")
        return _decode_vault(data) if kind.type is SecretType.VAULT else _decode_envelope(data)
    except DecodeError as error:
        raise DecodeError(_MALFORMED) from error


def _decode_vault(data: bytes) -> VaultSecret:
    raw = jsonio.decode(data, _VaultJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
    return VaultSecret(
        name=raw.name,
        provider=raw.provider,
        provider_settings=raw.provider_settings,
        annotations=raw.annotations,
    )


def _decode_envelope(data: bytes) -> EnvelopeSecret:
    raw = jsonio.decode(data, _EnvelopeJson, max_depth=MAX_DEPTH, max_bytes=MAX_LENGTH)
    return EnvelopeSecret(
        key_id=raw.key_id,
        encrypted_key=wire.decode_base64(raw.encrypted_key, "encrypted_key"),
        encrypted_data=wire.decode_base64(raw.encrypted_data, "encrypted_data"),
        wrap_type=raw.wrap_type,
        iv=wire.decode_base64(raw.iv, "iv"),
        provider=raw.provider,
        provider_settings=raw.provider_settings,
        annotations=raw.annotations,
    )


class SignedSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed secret whose form and header are right, and whose signature nobody checked yet.

    Attributes:
        kid: where the verification key is: a resource URI or a file name.
        jws: the compact JWS, without the prefix.
        unverified: the bytes of the payload.
    """

    kid: str
    jws: bytes
    unverified: bytes

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Take a sealed secret apart; white space around it is dropped.

        Raises:
            DecodeError: not one prefix and three parts of strict base64url, a header that is not
                plain ES256 with a `kid`, a signature of another length.
        """
        text = _trim(text)
        if not text.startswith(PREFIX):
            raise DecodeError("Failed to parse JWS: it does not begin with `sealed.`")
        jws = text.removeprefix(PREFIX)
        parts = jws.split(b".")
        if len(parts) != 3:
            raise DecodeError(f"Failed to parse JWS: {len(parts)} parts, expected 3")
        try:
            header, payload, signature = (wire.decode_base64url(part, "part") for part in parts)
            members = jsonio.decode(
                header, dict[str, object], max_depth=MAX_DEPTH, max_bytes=MAX_HEADER_LENGTH
            )
        except DecodeError as error:
            raise DecodeError(f"Failed to parse JWS: {error}") from error
        kid = _check_header(members)
        if len(signature) != SIGNATURE_LENGTH:
            raise DecodeError(f"Failed to parse JWS: signature of {len(signature)} bytes")
        return cls(kid=kid, jws=jws, unverified=payload)


def decode_unsigned(text: bytes) -> bytes:
    """The payload of a sealed secret, whatever prefix, header and signature are.

    For guests that were told to skip verification, and for tools that only look.

    Raises:
        DecodeError: not four parts, or the third is not strict base64url.
    """
    parts = _trim(text).split(b".")
    if len(parts) != 4:
        raise DecodeError(f"sealed secret has {len(parts)} parts, expected 4")
    return wire.decode_base64url(parts[2], "third part of the sealed secret")


def signing_input(kid: str, payload: bytes) -> bytes:
    """What an owner signs: header and payload, as they stand in the JWS."""
    header = msgspec.json.encode({"b64": True, "alg": ALGORITHM, "kid": kid})
    return f"{wire.encode_base64url(header)}.{wire.encode_base64url(payload)}".encode("ascii")


def encode_signed(signed: bytes, signature: bytes) -> bytes:
    """The sealed secret of a `signing_input` and its signature of 64 bytes."""
    assert len(signature) == SIGNATURE_LENGTH
    return PREFIX + signed + b"." + wire.encode_base64url(signature).encode("ascii")


def check_verification_key(data: bytes) -> None:
    """Refuse what is not the JSON of one P-256 JWK; a private part is tolerated.

    Loads the library of the primitives: not on an event loop the first time.

    Raises:
        DecodeError: `Could not parse verification key.` or `Key must be P256`.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    unusable = "Could not parse verification key."
    try:
        members = jsonio.decode(
            data, dict[str, object], max_depth=MAX_DEPTH, max_bytes=MAX_KEY_LENGTH
        )
    except DecodeError as error:
        raise DecodeError(unusable) from error
    if members.get("kty") != "EC" or members.get("crv") != "P-256":
        raise DecodeError("Key must be P256")
    if members.get("use", "sig") not in ("sig", "enc"):
        raise DecodeError(unusable)
    x, y = (_coordinate(members.get(name)) for name in ("x", "y"))
    try:
        ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise DecodeError(unusable) from error


def _coordinate(text: object) -> int:
    if not isinstance(text, str):
        raise DecodeError("Could not parse verification key.")
    value = wire.decode_base64url(text, "coordinate")
    if len(value) != COORDINATE_LENGTH:
        raise DecodeError("Could not parse verification key.")
    return int.from_bytes(value)


def _trim(text: bytes) -> bytes:
    if len(text) > MAX_LENGTH:
        raise DecodeError(f"sealed secret has {len(text)} bytes, at most {MAX_LENGTH} are allowed")
    return text.strip(_SPACE)


def _check_header(members: Mapping[str, object]) -> str:
    """The `kid` of a header that promises nothing but ES256."""
    kid, algorithm = members.get("kid"), members.get("alg")
    if kid is None:
        raise DecodeError("Could not find kid")
    if algorithm is None:
        raise DecodeError("Could not get algorithm")
    if algorithm != ALGORITHM:
        raise DecodeError(f"JWS algorithm must be {ALGORITHM}")
    if not isinstance(kid, str):
        raise DecodeError("Failed to parse JWS: kid is not a string")
    if "crit" in members or members.get("b64", True) is not True:
        raise DecodeError("Failed to parse JWS: header has `crit` or `b64` that are not understood")
    return kid
