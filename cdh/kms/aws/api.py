"""Requests to AWS KMS and AWS Secrets Manager, and their answers: JSON 1.1. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.6.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from cdh.kms.answers import TRANSIENT_STATUSES, foreign_answer, shown
from cdh.kms.aws.settings import AwsCredentials, SecretVersion
from cdh.kms.aws.sigv4 import Headers, signed_headers
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

MEDIA_TYPE: Final = "application/x-amz-json-1.1"

MAX_ANSWER_LENGTH: Final = 1024 * 1024
"""Most bytes of an answer that are read; a secret of the service has at most 64 KiB."""

MAX_SECRET_LENGTH: Final = 64 * 1024
"""Most bytes of a secret that the service keeps."""

MAX_DEPTH: Final = 16

TRANSIENT_CODES: Final = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "InternalServiceError",
        "KMSInternalException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "TooManyRequestsException",
    }
)
"""Codes after which the vendor's own client tries again; those with `Throttl` are more."""

KEY_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Codes that refuse who asks, not what is asked."""

_QUOTED_REQUEST: Final = re.compile(
    r"\s*The (?:canonical string|string[- ]to[- ]sign).*", re.IGNORECASE | re.DOTALL
)

T = TypeVar("T", bound=msgspec.Struct)


class ExistsError(InvalidInputError):
    """A secret of that name is there already."""

    code = "exists"


class Service(StrEnum):
    """The name in hosts and signatures."""

    KMS = "kms"
    SECRETS_MANAGER = "secretsmanager"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsRequest:
    """One request that is not signed yet.

    Attributes:
        service: who answers it.
        target: the operation's full name.
        body: JSON.
    """

    service: Service
    target: str
    body: bytes

    def host(self, region: str) -> str:
        """Who answers it in a region."""
        suffix = ".cn" if region.startswith("cn-") else ""
        return f"{self.service}.{region}.amazonaws.com{suffix}"

    def headers(self, region: str, credentials: AwsCredentials, now: datetime) -> Headers:
        """All headers but `Host`, `User-Agent` and `Content-Length`."""
        headers = {
            "content-type": MEDIA_TYPE,
            "host": self.host(region),
            "x-amz-target": self.target,
        }
        return signed_headers(
            headers,
            self.body,
            region=region,
            service=self.service,
            credentials=credentials,
            now=now,
        )


class _DecryptedJson(msgspec.Struct, frozen=True, rename="pascal"):
    plaintext: str


class _EncryptedJson(msgspec.Struct, frozen=True, rename="pascal"):
    ciphertext_blob: str


class _SecretJson(msgspec.Struct, frozen=True, rename="pascal"):
    secret_string: str | None = None
    secret_binary: str | None = None


class _StoredJson(msgspec.Struct, frozen=True, rename="pascal"):
    version_id: str


class _RefusalJson(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="__type")
    message: str | None = None
    other_message: str | None = msgspec.field(name="Message", default=None)


def decrypt_request(ciphertext: bytes, key_id: str, context: Mapping[str, str]) -> AwsRequest:
    """Decrypt under a key of KMS.

    Args:
        ciphertext: what `encrypt_request` was answered.
        key_id: an id, an ARN or an alias.
        context: what it was encrypted with; empty for none.
    """
    members: dict[str, object] = {
        "KeyId": key_id,
        "CiphertextBlob": wire.encode_base64(ciphertext),
    }
    if context:
        members["EncryptionContext"] = dict(context)
    return _request(Service.KMS, "TrentService.Decrypt", members)


def encrypt_request(plaintext: Secret, key_id: str) -> AwsRequest:
    """Encrypt at most 4,096 bytes under a key of KMS."""
    members = {"KeyId": key_id, "Plaintext": wire.encode_base64(plaintext.reveal())}
    return _request(Service.KMS, "TrentService.Encrypt", members)


def get_secret_request(name: str, version: SecretVersion) -> AwsRequest:
    """Read a secret.

    Args:
        name: or its ARN.
        version: which version of it.
    """
    members = {"SecretId": name}
    if version.version_id:
        members["VersionId"] = version.version_id
    if version.stage:
        members["VersionStage"] = version.stage
    return _request(Service.SECRETS_MANAGER, "secretsmanager.GetSecretValue", members)


def create_secret_request(name: str, secret: Secret, token: str) -> AwsRequest:
    """Keep a new secret.

    Args:
        name: none of an existing one.
        secret: at most `MAX_SECRET_LENGTH` bytes, at least one.
        token: a new UUID; a request that is repeated has the same.
    """
    return _store_request("secretsmanager.CreateSecret", "Name", name, secret, token)


def put_secret_request(name: str, secret: Secret, token: str) -> AwsRequest:
    """Keep a new version of a secret, which becomes the current one; see `create_secret_request`.

    Args:
        name: of the existing one, or its ARN.
        secret: as there.
        token: as there; not that of another request.
    """
    return _store_request("secretsmanager.PutSecretValue", "SecretId", name, secret, token)


def _store_request(target: str, member: str, name: str, secret: Secret, token: str) -> AwsRequest:
    members = {
        member: name,
        "ClientRequestToken": token,
        "SecretBinary": wire.encode_base64(secret.reveal()),
    }
    return _request(Service.SECRETS_MANAGER, target, members)


def _request(service: Service, target: str, members: Mapping[str, object]) -> AwsRequest:
    return AwsRequest(service=service, target=target, body=msgspec.json.encode(members))


def decode_plaintext(status: int, body: bytes, request_id: str) -> Secret:
    """The plaintext of an answer.

    Args:
        status: of HTTP.
        body: of the answer.
        request_id: for the vendor's support.

    Raises:
        GuestError: the service refused; `PeerError` for an answer that is none.
    """
    answer = _decode(_DecryptedJson, status, body, request_id)
    return Secret(_decode_base64(answer.plaintext, "Plaintext"))


def decode_ciphertext(status: int, body: bytes, request_id: str) -> bytes:
    """The ciphertext of an answer.

    Raises:
        GuestError: as `decode_plaintext`.
    """
    answer = _decode(_EncryptedJson, status, body, request_id)
    return _decode_base64(answer.ciphertext_blob, "CiphertextBlob")


def decode_secret(status: int, body: bytes, request_id: str) -> Secret:
    """The secret of an answer: its text as UTF-8, or else its bytes.

    Raises:
        GuestError: as `decode_plaintext`.
    """
    answer = _decode(_SecretJson, status, body, request_id)
    if answer.secret_string is not None:
        return Secret(answer.secret_string.encode("utf-8"))
    if answer.secret_binary is not None:
        return Secret(_decode_base64(answer.secret_binary, "SecretBinary"))
    raise PeerError("answer has neither SecretString nor SecretBinary")


def decode_stored(status: int, body: bytes, request_id: str) -> str:
    """The id of the version that the service keeps now.

    Raises:
        ExistsError: there is a secret of that name.
        GuestError: as `decode_plaintext`.
    """
    return _decode(_StoredJson, status, body, request_id).version_id


def _decode_base64(text: str, name: str) -> bytes:
    try:
        return wire.decode_base64(text, name)
    except DecodeError as error:
        raise PeerError(f"answer's {error}") from error


def _decode(kind: type[T], status: int, body: bytes, request_id: str) -> T:
    if status != 200:
        raise _decode_refusal(status, body, request_id)
    try:
        return jsonio.decode(body, kind, max_depth=MAX_DEPTH, max_bytes=MAX_ANSWER_LENGTH)
    except DecodeError as error:
        raise foreign_answer(status, body) from error


def _decode_refusal(status: int, body: bytes, request_id: str) -> GuestError:
    try:
        answer = jsonio.decode(body, _RefusalJson, max_depth=MAX_DEPTH, max_bytes=MAX_ANSWER_LENGTH)
    except DecodeError:
        return foreign_answer(status, body)
    code = answer.type.rpartition("#")[2].partition(":")[0]
    message = answer.message or answer.other_message or ""
    return refusal(status=status, code=code, message=message, request_id=request_id)


def refusal(*, status: int, code: str, message: str, request_id: str) -> GuestError:
    """The error for a refusal whose reason the service gave.

    Args:
        status: of HTTP.
        code: the bare name of the service's exception.
        message: for people. A service that finds a wrong signature repeats the request in it,
            token and all: that part is cut off.
        request_id: for the vendor's support.
    """
    text = (
        f"status code: {status}, request id: {shown(request_id)}, error code: {shown(code)}, "
        f"message: {shown(_QUOTED_REQUEST.sub('', message))}"
    )
    if code in TRANSIENT_CODES or "Throttl" in code or status in TRANSIENT_STATUSES:
        return UnavailableError(text)
    if code in KEY_CODES or status == 401:
        return UnauthenticatedError(text)
    if code == "ResourceExistsException":
        return ExistsError(text)
    if code in ("NotFoundException", "ResourceNotFoundException"):
        return NotFoundError(text)
    if code in ("AccessDeniedException", "AccessDenied") or status == 403:
        return DeniedError(text)
    if status >= 500:
        return UnavailableError(text)
    if status >= 400:
        return InvalidInputError(text)
    return PeerError(text)
