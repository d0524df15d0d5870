"""Secrets that a KMS instance encrypts for an attested key: the messages. Sans-I/O.

The instance gives a challenge, the guest answers with evidence that binds the challenge and the
public half of a key of its own, and the secret comes encrypted under that key.

Source: docs/spec/confidential-data-hub.md 12.4; RFC 8785.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cdh.kms.aliyun import openapi
from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.settings import SecretVersion
from guest import jsonio, wire
from guest.errors import DecodeError, IntegrityError, PeerError
from guest.secret import Secret

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"

RSA_BITS: Final = 2048
RSA_EXPONENT: Final = 65537

MAX_SECRET_LENGTH: Final = 190
"""Most bytes of a secret that fit into one ciphertext of such a key."""

MAX_CHALLENGE_LENGTH: Final = 64 * 1024
"""Most characters of a challenge's parts."""

_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class _ChallengeJson(msgspec.Struct, frozen=True, rename="pascal"):
    nonce: str
    challenge_token: str


class _SecretJson(msgspec.Struct, frozen=True, rename="pascal"):
    ciphertext_for_recipient: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What an instance wants bound by evidence; both as it wrote them."""

    nonce: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeData:
    """What the evidence binds: the challenge, and the public half of a key.

    Attributes:
        structured: its members.
    """

    structured: Mapping[str, object]

    @classmethod
    def of(cls, challenge: Challenge, key: rsa.RSAPublicKey) -> "RuntimeData":
        """Put both together."""
        numbers = key.public_numbers()
        public = {
            "alg": "RSA",
            "k-exp": _encode_integer(numbers.e),
            "k-mod": _encode_integer(numbers.n),
        }
        members = {
            "challenge_token": challenge.token,
            "nonce": challenge.nonce,
            "tee-pubkey": public,
        }
        return cls(structured=members)

    def report_data(self) -> bytes:
        """The 48 bytes for the attester: SHA-384 of the canonical form."""
        return hashlib.sha384(jsonio.canonical(self.structured)).digest()

    def recipient(self, tee: str, evidence: bytes) -> str:
        """The value of `Recipient`.

        Args:
            tee: the name that the instance's verifier knows it by.
            evidence: whose report data is that of this.
        """
        document = {
            "tee": tee,
            "evidence": wire.encode_base64url(evidence),
            "runtime_data": {"structured": self.structured},
            "runtime_data_hash_algorithm": "sha384",
        }
        members = {
            "type": "Trustee",
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "attestationDocument": urlsafe_b64encode(msgspec.json.encode(document)).decode("ascii"),
        }
        return msgspec.json.encode(members).decode("utf-8")


def challenge_request(key: AccessKey, nonce: str, now: datetime) -> bytes:
    """The form that asks for a challenge.

    Args:
        key: signs.
        nonce: never used before.
        now: aware.
    """
    return _form({"Action": "GetChallenge"}, key, nonce, now)


def get_secret_request(
    name: str, version: SecretVersion, recipient: str, *, key: AccessKey, nonce: str, now: datetime
) -> bytes:
    """The form that asks for a secret under the recipient's key; arguments as in `openapi`."""
    parameters = {
        "Action": "GetSecretValue",
        "SecretName": name,
        "VersionStage": version.stage,
        "VersionId": version.version_id,
        "FetchExtendedConfig": "true",
        "Recipient": recipient,
    }
    return _form(parameters, key, nonce, now)


def decode_challenge(status: int, body: bytes) -> Challenge:
    """The challenge of an answer.

    Raises:
        GuestError: the instance refused; `PeerError` for an answer that is none.
    """
    answer = openapi.decode_answer(_ChallengeJson, status, body)
    parts = (answer.nonce, answer.challenge_token)
    if not all(0 < len(part) <= MAX_CHALLENGE_LENGTH for part in parts):
        raise PeerError("challenge has an empty or an endless part")
    if any("\ud800" <= character <= "\udfff" for part in parts for character in part):
        raise PeerError("challenge is no text")
    return Challenge(nonce=answer.nonce, token=answer.challenge_token)


def decode_secret(status: int, body: bytes) -> bytes:
    """The ciphertext of an answer.

    Raises:
        GuestError: as `decode_challenge`.
    """
    text = openapi.decode_answer(_SecretJson, status, body).ciphertext_for_recipient
    if text is None:
        raise PeerError("answer has no CiphertextForRecipient")
    try:
        return wire.decode_base64(text, "CiphertextForRecipient")
    except DecodeError as error:
        raise PeerError(f"answer's {error}") from error


def generate_key() -> rsa.RSAPrivateKey:
    """A key for one secret; takes tenths of a second: not on the event loop."""
    return rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)


def decrypt_secret(ciphertext: bytes, key: rsa.RSAPrivateKey) -> Secret:
    """The secret.

    Raises:
        IntegrityError: it was not encrypted for this key.
    """
    try:
        return Secret(key.decrypt(ciphertext, _OAEP))
    except ValueError as error:
        raise IntegrityError("secret was not encrypted for this guest's key") from error


def _form(parameters: Mapping[str, str], key: AccessKey, nonce: str, now: datetime) -> bytes:
    complete = {
        **parameters,
        "Version": openapi.KMS_VERSION,
        "Format": "JSON",
        "Timestamp": openapi.timestamp(now),
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": nonce,
        "AccessKeyId": key.key_id,
        "SecurityToken": key.token.reveal().decode("ascii"),
    }
    signature = quote(openapi.sign(complete, key.secret), safe="")
    return f"{openapi.canonical_query(complete)}&Signature={signature}".encode("ascii")


def _encode_integer(value: int) -> str:
    return wire.encode_base64url(value.to_bytes((value.bit_length() + 7) // 8))
