"""Requests to the dedicated gateway of a KMS instance, and its answers. Sans-I/O.

A request is one protobuf message whose digest, date and kind a client key signs.

Source: docs/spec/confidential-data-hub.md 8.2, docs/spec/protos.md 5.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeVar

from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message

from cdh.kms.aliyun.refusals import refusal
from cdh.kms.aliyun.settings import SecretVersion
from cdh.kms.answers import foreign_answer
from guest import wire
from guest.errors import GuestError, PeerError
from guest.protos import dkms_pb2
from guest.secret import Secret

ALGORITHM: Final = "AES_GCM"
MEDIA_TYPE: Final = "application/x-protobuf"
API_VERSION: Final = "dkms-gcs-0.2"
SIGNATURE_METHOD: Final = "RSA_PKCS1_SHA_256"

MAX_ANSWER_LENGTH: Final = 1024 * 1024
"""Most bytes of an answer that are read."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip

M = TypeVar("M", bound=Message)
Headers = tuple[tuple[str, str], ...]


class Operation(StrEnum):
    """What a gateway can be asked."""

    ENCRYPT = "Encrypt"
    DECRYPT = "Decrypt"
    GET_SECRET_VALUE = "GetSecretValue"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRequest:
    """One request that is not signed yet.

    Attributes:
        operation: which.
        body: the encoded message.
    """

    operation: Operation
    body: bytes

    def string_to_sign(self, client_key_id: str, now: datetime) -> bytes:
        """What the client key signs.

        Args:
            client_key_id: as the key's own file has it.
            now: aware; goes into the date.
        """
        kms_headers = "".join(f"{n}:{v}\n" for n, v in sorted(self._kms_headers(client_key_id)))
        head = f"POST\n{self._digest()}\n{MEDIA_TYPE}\n{http_date(now)}\n"
        return f"{head}{kms_headers}/".encode("ascii")

    def headers(self, client_key_id: str, now: datetime, signature: bytes) -> Headers:
        """All headers but `Host`, `User-Agent` and `Content-Length`."""
        return (
            ("Accept", MEDIA_TYPE),
            ("Content-Type", MEDIA_TYPE),
            ("Date", http_date(now)),
            *self._kms_headers(client_key_id),
            ("Content-Sha256", self._digest()),
            ("Authorization", f"Bearer {wire.encode_base64(signature)}"),
        )

    def _kms_headers(self, client_key_id: str) -> Headers:
        return (
            ("x-kms-apiversion", API_VERSION),
            ("x-kms-apiname", self.operation),
            ("x-kms-signaturemethod", SIGNATURE_METHOD),
            ("x-kms-acccesskeyid", client_key_id),  # three c's: that is the protocol
        )

    def _digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest().upper()


def host(kms_instance_id: str) -> str:
    """The gateway's host name, from an id that was verified."""
    return f"{kms_instance_id}.cryptoservice.kms.aliyuncs.com"


def decrypt_request(ciphertext: bytes, key_id: str, iv: bytes) -> InstanceRequest:
    """Decrypt what `Encrypt` gave, with the IV it gave."""
    message = dkms_pb2.DecryptRequest(
        CiphertextBlob=ciphertext, KeyId=key_id, Algorithm=ALGORITHM, Iv=iv
    )
    return InstanceRequest(operation=Operation.DECRYPT, body=_encode(message))


def encrypt_request(plaintext: Secret, key_id: str) -> InstanceRequest:
    """Encrypt; the gateway chooses the IV. The request holds the plaintext."""
    message = dkms_pb2.EncryptRequest(
        KeyId=key_id, Plaintext=plaintext.reveal(), Algorithm=ALGORITHM
    )
    return InstanceRequest(operation=Operation.ENCRYPT, body=_encode(message))


def get_secret_request(name: str, version: SecretVersion) -> InstanceRequest:
    """Read a secret that the instance keeps."""
    message = dkms_pb2.GetSecretValueRequest(
        SecretName=name,
        VersionStage=version.stage,
        VersionId=version.version_id,
        FetchExtendedConfig=True,
    )
    return InstanceRequest(operation=Operation.GET_SECRET_VALUE, body=_encode(message))


def decode_plaintext(status: int, body: bytes) -> Secret:
    """The plaintext of an answer to `Decrypt`.

    Raises:
        GuestError: the gateway refused, see `cdh.kms.aliyun.refusals`; `PeerError` for an answer
            that is none.
    """
    plaintext = _decode(dkms_pb2.DecryptResponse, status, body).Plaintext
    if not plaintext:
        raise PeerError("answer to Decrypt has no plaintext")
    return Secret(plaintext)


def decode_ciphertext(status: int, body: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and IV of an answer to `Encrypt`.

    Raises:
        GuestError: as `decode_plaintext`.
    """
    answer = _decode(dkms_pb2.EncryptResponse, status, body)
    if not answer.CiphertextBlob or not answer.Iv:
        raise PeerError("answer to Encrypt has no ciphertext or no iv")
    return answer.CiphertextBlob, answer.Iv


def decode_secret(status: int, body: bytes) -> Secret:
    """The secret of an answer to `GetSecretValue`: the UTF-8 bytes of its text.

    Raises:
        GuestError: as `decode_plaintext`.
    """
    # Compat: secrets of the data type `binary` are base64 text, which upstream hands on as it is.
    data = _decode(dkms_pb2.GetSecretValueResponse, status, body).SecretData
    if not data:
        raise PeerError("get 'SecretData' from get_secret response failed.")
    return Secret(data.encode("utf-8"))


def http_date(now: datetime) -> str:
    """The date of RFC 1123, whatever the locale."""
    utc = now.astimezone(UTC)
    day, month = _DAYS[utc.weekday()], _MONTHS[utc.month - 1]
    return f"{day}, {utc.day:02} {month} {utc.year:04} {utc:%H:%M:%S} GMT"


def _encode(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _decode(kind: type[M], status: int, body: bytes) -> M:
    if not 200 <= status < 300:
        raise _decode_refusal(status, body)
    try:
        return kind.FromString(body)
    except ProtobufError as error:
        raise foreign_answer(status, body) from error


def _decode_refusal(status: int, body: bytes) -> GuestError:
    try:
        error = dkms_pb2.Error.FromString(body)
    except ProtobufError:
        return foreign_answer(status, body)
    if not error.ErrorCode:
        return foreign_answer(status, body)
    return refusal(
        status=error.StatusCode or status,
        code=error.ErrorCode,
        message=error.ErrorMessage,
        request_id=error.RequestId,
    )
