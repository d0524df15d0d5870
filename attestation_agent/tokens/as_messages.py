"""The bodies that an attestation service takes and gives over REST. Sans-I/O.

Source: docs/spec/attestation-agent.md 5.3.
"""

from typing import Final

import msgspec

from guest import jsonio
from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.secret import Secret
from guest.tee import Tee
from guest.wire import decode_utf8, encode_base64url

ATTESTATION_PATH: Final = "/attestation"
CHALLENGE_PATH: Final = "/challenge"

MAX_TOKEN_LENGTH: Final = 1024 * 1024
"""Bytes of the longest token, and of the longest refusal that is read."""

MAX_NONCE_LENGTH: Final = 64 * 1024
"""Bytes of the longest nonce."""

MAX_TEXT_LENGTH: Final = 300
"""Characters of a refusal that an error repeats."""

HASH: Final = HashAlgorithm.SHA384
"""Digests the runtime data; the service's own default."""


class _RuntimeData(msgspec.Struct, frozen=True, kw_only=True):
    structured: dict[str, str]


class _InitData(msgspec.Struct, frozen=True, kw_only=True):
    init_data_toml: str


class _Individual(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    tee: str
    evidence: str
    runtime_data: _RuntimeData | None = None
    init_data: _InitData | None = None
    runtime_data_hash_algorithm: str | None = None
    additional_data: str | None = None


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    verification_requests: tuple[_Individual, ...]
    policy_ids: tuple[str, ...]


class _ChallengeRequest(msgspec.Struct, frozen=True, kw_only=True):
    tee: str
    tee_params: str = ""


def report_data(nonce: str) -> bytes:
    """What evidence binds for a nonce: the digest of the canonical runtime data.

    Raises:
        DecodeError: the nonce has no canonical form.
    """
    return HASH.of(jsonio.canonical({"nonce": nonce})).value


def encode_challenge_request(tee: Tee) -> bytes:
    """The body of `/challenge`."""
    return msgspec.json.encode(_ChallengeRequest(tee=tee.value))


def encode_request(
    tee: Tee, evidence: bytes, policy_ids: tuple[str, ...], *, additional_data: str | None = None
) -> bytes:
    """The body of `/attestation` for evidence that binds nothing.

    Args:
        tee: whose evidence.
        evidence: compact JSON text.
        policy_ids: that the service appraises by; none at all is its default policy.
        additional_data: text that one fork's service puts into the token.
    """
    individual = _Individual(
        tee=tee.value, evidence=encode_base64url(evidence), additional_data=additional_data
    )
    return msgspec.json.encode(_Request(verification_requests=(individual,), policy_ids=policy_ids))


def encode_bound_request(
    tee: Tee,
    evidence: bytes,
    policy_ids: tuple[str, ...],
    *,
    nonce: str,
    init_data: str | None,
    additional_data: str | None = None,
) -> bytes:
    """The body of `/attestation` for evidence that binds `report_data(nonce)`.

    Args:
        tee: whose evidence.
        evidence: compact JSON text.
        policy_ids: as for `encode_request`.
        nonce: the challenge's.
        init_data: the init data document's text, or None.
        additional_data: as for `encode_request`.
    """
    individual = _Individual(
        tee=tee.value,
        evidence=encode_base64url(evidence),
        runtime_data=_RuntimeData(structured={"nonce": nonce}),
        init_data=None if init_data is None else _InitData(init_data_toml=init_data),
        runtime_data_hash_algorithm=HASH.value,
        additional_data=additional_data,
    )
    return msgspec.json.encode(_Request(verification_requests=(individual,), policy_ids=policy_ids))


def decode_nonce(body: bytes) -> str:
    """Take the answer to `/challenge`: the nonce's text, echoed and hashed as it came.

    Raises:
        DecodeError: it is empty, too long or not UTF-8.
    """
    if not body or len(body) > MAX_NONCE_LENGTH:
        raise DecodeError(f"nonce of {len(body)} bytes, expected 1 to {MAX_NONCE_LENGTH}")
    return decode_utf8(body, "nonce")


def decode_token(body: bytes) -> Secret:
    """Take the answer to `/attestation`: the token, byte for byte, whatever its form.

    Raises:
        DecodeError: it is empty, too long or no text.
    """
    if not body or len(body) > MAX_TOKEN_LENGTH:
        raise DecodeError(f"token of {len(body)} bytes, expected 1 to {MAX_TOKEN_LENGTH}")
    decode_utf8(body, "token")
    return Secret(body)


def refusal(status: int, body: bytes) -> str:
    """What an answer that is not 200 says, as one printable line, shortened."""
    # A character may be cut in two at the end of the part that is read; it becomes a mark.
    text = body[: 4 * MAX_TEXT_LENGTH].decode("utf-8", "replace")
    line = " ".join(text.split())[:MAX_TEXT_LENGTH]
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return f'Remote Attestation Failed, AS Response: "{shown}" (status {status})'
