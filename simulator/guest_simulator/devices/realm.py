"""Attestation tokens of an Arm CCA realm, built field by field and signed by keys of their own.

Source: docs/spec/attesters.md 10; Realm Management Monitor specification, "CCA attestation token";
RFC 8949; RFC 9052 section 4.2.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from guest_simulator.machine import Machine
from guest_simulator.tdx.tsm import TsmReports

CHALLENGE: Final = 10
PERSONALIZATION: Final = 44235
INITIAL_MEASUREMENT: Final = 44238
EXTENSIBLE_MEASUREMENTS: Final = 44239
HASH: Final = 44236
PUBLIC_KEY: Final = 44237

COLLECTION_TAG: Final = 399
SIGN1_TAG: Final = 18
PLATFORM_TOKEN: Final = 44234
REALM_TOKEN: Final = 44241

ES384: Final = b"\xa1\x01\x38\x22"
"""Protected header: algorithm -35."""


class Tag:
    """A tag and what it is put on."""

    def __init__(self, number: int, value: object) -> None:
        """Keep both."""
        self.number = number
        self.value = value


def encode(value: object) -> bytes:
    """CBOR of numbers, strings, sequences, mappings and tags."""
    match value:
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case Tag():
            return _head(6, value.number) + encode(value.value)
        case Mapping():
            items = b"".join(encode(key) + encode(item) for key, item in value.items())
            return _head(5, len(value)) + items
        case Sequence():
            return _head(4, len(value)) + b"".join(map(encode, value))
    raise TypeError(type(value).__name__)


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes((kind << 5 | number,))
    for info, length in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * length:
            return bytes((kind << 5 | info,)) + number.to_bytes(length, "big")
    raise ValueError("number of more than 64 bits")


class Realm:
    """A realm whose tokens anybody may check: its keys, and what its tokens claim."""

    def __init__(self) -> None:
        """Make the keys; nothing was measured."""
        self.platform_key = ec.generate_private_key(ec.SECP384R1())
        self.realm_key = ec.generate_private_key(ec.SECP384R1())
        self.personalization = bytes(64)

    def token(self, challenge: bytes) -> bytes:
        """The token over 64 bytes."""
        claims = {
            CHALLENGE: challenge,
            PERSONALIZATION: self.personalization,
            INITIAL_MEASUREMENT: bytes(32),
            EXTENSIBLE_MEASUREMENTS: [bytes(32)] * 4,
            HASH: "sha-256",
            PUBLIC_KEY: bytes(97),
        }
        platform = {CHALLENGE: bytes(32), 265: "tag:arm.com,2023:cca_platform#1.0.0"}
        return self.collection(
            self.signed(self.platform_key, encode(platform)),
            self.signed(self.realm_key, encode(claims)),
        )

    def collection(self, platform: bytes, realm: bytes) -> bytes:
        """Both messages together."""
        return encode(Tag(COLLECTION_TAG, {PLATFORM_TOKEN: platform, REALM_TOKEN: realm}))

    def signed(self, key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
        """A COSE_Sign1 message."""
        to_sign = encode(["Signature1", ES384, b"", payload])
        r, s = decode_dss_signature(key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        return encode(Tag(SIGN1_TAG, [ES384, {}, payload, signature]))

    def kernel(self, root: str) -> Machine:
        """A kernel that gives its tokens."""
        reports = TsmReports(
            lambda challenge: self.token(challenge.ljust(64, b"\0")), provider="arm_cca_guest"
        )
        return Machine(root=root, reports=reports)
