"""Signed requests to an eHSM-KMS, and its answers. Sans-I/O.

A request is signed over its members in ASCII order, whatever order they are sent in.

Source: docs/spec/confidential-data-hub.md 8.7.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from cdh.kms.answers import TRANSIENT_STATUSES, foreign_answer, shown
from cdh.kms.ehsm.settings import EhsmCredentials
from guest import jsonio, wire
from guest.errors import (
    DecodeError,
    DeniedError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.secret import Secret

MEDIA_TYPE: Final = "application/json"

MAX_ANSWER_LENGTH: Final = 1024 * 1024
"""Most bytes of an answer that are read."""

MAX_DEPTH: Final = 16

MAX_NONCE_LENGTH: Final = 64
"""Most characters of a nonce."""


class Action(StrEnum):
    """What the service can be asked."""

    ENCRYPT = "Encrypt"
    DECRYPT = "Decrypt"


@dataclass(frozen=True, slots=True, kw_only=True)
class EhsmRequest:
    """One request that is not signed yet.

    Attributes:
        action: which.
        payload: its members.
    """

    action: Action
    payload: Mapping[str, str]

    def url(self, endpoint: str) -> str:
        """Where it goes."""
        return f"{endpoint}/ehsm?Action={self.action}"

    def body(self, credentials: EhsmCredentials, nonce: str, milliseconds: int) -> bytes:
        """The signed request.

        Args:
            credentials: sign.
            nonce: never used before; at most `MAX_NONCE_LENGTH` characters.
            milliseconds: since the epoch; 13 digits.
        """
        payload = dict(sorted(self.payload.items()))
        members: dict[str, object] = {
            "appid": credentials.app_id,
            "nonce": nonce,
            "payload": payload,
            "timestamp": str(milliseconds),
        }
        members["sign"] = sign(members, credentials.api_key)
        return msgspec.json.encode(members)


class _ResultJson(msgspec.Struct, frozen=True):
    plaintext: str | None = None
    ciphertext: str | None = None


class _AnswerJson(msgspec.Struct, frozen=True):
    code: int
    message: str = ""
    result: msgspec.Raw = msgspec.Raw()


def string_to_sign(members: Mapping[str, object]) -> str:
    """`k=v` joined by `&` in ASCII order, an object as its own such text; empty values left out."""
    parts = []
    for name in sorted(members):
        value = members[name]
        text = string_to_sign(value) if isinstance(value, Mapping) else str(value)
        if text:
            parts.append(f"{name}={text}")
    return "&".join(parts)


def sign(members: Mapping[str, object], api_key: Secret) -> str:
    """The value of `sign`; `members` are all the others."""
    text = string_to_sign(members).encode("utf-8")
    return wire.encode_base64(hmac.new(api_key.reveal(), text, hashlib.sha256).digest())


def decrypt_request(ciphertext: bytes, key_id: str) -> EhsmRequest:
    """Decrypt under a key of the service.

    Args:
        ciphertext: the text that the service gave when it encrypted.
        key_id: of the key.

    Raises:
        DecodeError: the ciphertext is no printable ASCII.
    """
    if not ciphertext.isascii() or not ciphertext.decode("ascii").isprintable():
        raise DecodeError("encrypted key is none of this service: not printable ASCII")
    payload = {"keyid": key_id, "ciphertext": ciphertext.decode("ascii")}
    return EhsmRequest(action=Action.DECRYPT, payload=payload)


def encrypt_request(plaintext: Secret, key_id: str) -> EhsmRequest:
    """Encrypt under a key of the service."""
    payload = {"keyid": key_id, "plaintext": wire.encode_base64(plaintext.reveal())}
    return EhsmRequest(action=Action.ENCRYPT, payload=payload)


def decode_plaintext(status: int, body: bytes) -> Secret:
    """The plaintext of an answer.

    Raises:
        GuestError: the service refused; `PeerError` for an answer that is none.
    """
    text = _decode_result(status, body).plaintext
    if text is None:
        raise PeerError("answer has no plaintext")
    try:
        return Secret(wire.decode_base64(text, "plaintext"))
    except DecodeError as error:
        raise PeerError(f"answer's {error}") from error


def decode_ciphertext(status: int, body: bytes) -> bytes:
    """The ciphertext of an answer, as the service writes it.

    Raises:
        GuestError: as `decode_plaintext`.
    """
    text = _decode_result(status, body).ciphertext
    if not text or not text.isascii() or not text.isprintable():
        raise PeerError("answer has no ciphertext of printable ASCII")
    return text.encode("ascii")


def _decode_result(status: int, body: bytes) -> _ResultJson:
    try:
        answer = jsonio.decode(body, _AnswerJson, max_depth=MAX_DEPTH, max_bytes=MAX_ANSWER_LENGTH)
        if status == 200 and answer.code == 200:
            return jsonio.decode(bytes(answer.result), _ResultJson, max_depth=MAX_DEPTH)
    except DecodeError as error:
        raise foreign_answer(status, body) from error
    raise refusal(status=status, code=answer.code, message=answer.message)


def refusal(*, status: int, code: int, message: str) -> GuestError:
    """The error for a refusal whose reason the service gave.

    Args:
        status: of HTTP, often 200.
        code: of the answer, meant like one of HTTP.
        message: for people.
    """
    text = f"status code: {status}, error code: {code}, message: {shown(message)}"
    reason = code if status == 200 else status
    if reason in TRANSIENT_STATUSES:
        return UnavailableError(text)
    kinds: dict[int, type[GuestError]] = {
        401: UnauthenticatedError,
        403: DeniedError,
        404: NotFoundError,
    }
    is_ours = 400 <= reason < 500
    return kinds.get(reason, InvalidInputError if is_ours else PeerError)(text)
