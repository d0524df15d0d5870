"""The dedicated gateway of a KMS instance: checks the RSA signature of each request.

Source: docs/spec/confidential-data-hub.md 8.2, docs/spec/protos.md 5.
"""

import hashlib
import secrets
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError, Message

from guest.protos import dkms_pb2
from guest_simulator.encoding import EncodingError, b64_decode
from guest_simulator.faults import Fault
from guest_simulator.kms.aliyun.store import AliyunStore
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming, TooLargeError

BODY_LIMIT: Final = 1024 * 1024
SKEW_SECONDS: Final = 900.0
MEDIA_TYPE: Final = "application/x-protobuf"
EXPECTED: Final[Mapping[str, str]] = {
    "accept": MEDIA_TYPE,
    "content-type": MEDIA_TYPE,
    "x-kms-apiversion": "dkms-gcs-0.2",
    "x-kms-signaturemethod": "RSA_PKCS1_SHA_256",
}


class InstanceError(Exception):
    """A refusal: status, code, text."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def error_body(status: int, code: str, message: str) -> bytes:
    """The protobuf of a refusal."""
    return dkms_pb2.Error(
        StatusCode=status, ErrorCode=code, ErrorMessage=message, RequestId="req-1"
    ).SerializeToString()


def instance_fault(status: int, code: str, *, times: int | None = None) -> Fault:
    """A refusal that the next requests get instead of their answer."""
    body = error_body(status, code, "simulated")
    return Fault(status=status, body=body, headers={"Content-Type": MEDIA_TYPE}, times=times)


class Instance:
    """Answers for one instance."""

    def __init__(self, store: AliyunStore) -> None:
        self._store = store

    async def answer(self, request: Incoming) -> Reply:
        """The answer to a request, or the refusal it earns."""
        headers = {"Content-Type": MEDIA_TYPE}
        try:
            body = await request.read(BODY_LIMIT)
            self._verify(request, body)
            message = self._perform(request.header("x-kms-apiname"), body)
        except TooLargeError:
            large = error_body(413, "RequestTooLarge", "too large")
            return Reply(status=413, headers=headers, body=large)
        except InstanceError as error:
            refused = error_body(error.status, error.code, error.message)
            return Reply(status=error.status, headers=headers, body=refused)
        return Reply(headers=headers, body=message.SerializeToString())

    def _verify(self, request: Incoming, body: bytes) -> None:
        headers = request.headers()
        if request.method != "POST" or request.path != "/" or request.query:
            raise InstanceError(400, "InvalidRequest", "not POST /")
        for name, value in EXPECTED.items():
            if headers.get(name) != value:
                raise InstanceError(400, "InvalidParameter", f"header {name}")
        digest = hashlib.sha256(body).hexdigest().upper()
        if headers.get("content-sha256") != digest:
            raise InstanceError(400, "InvalidParameter", "header content-sha256")
        self._verify_date(headers.get("date", ""))
        lines = ["POST", digest, headers["content-type"], headers["date"]]
        lines += [f"{n}:{v.strip()}" for n, v in sorted(headers.items()) if n.startswith("x-kms-")]
        self._verify_signature(headers, "\n".join([*lines, "/"]).encode())

    def _verify_date(self, text: str) -> None:
        try:
            date = parsedate_to_datetime(text)
        except ValueError as error:
            raise InstanceError(400, "InvalidParameter", "header date") from error
        if not text.endswith(" GMT") or abs(date.timestamp() - self._store.clock.now()) > (
            SKEW_SECONDS
        ):
            raise InstanceError(400, "InvalidTimestamp", "date is too far away")

    def _verify_signature(self, headers: Mapping[str, str], signed: bytes) -> None:
        public = self._store.clients.get(headers.get("x-kms-acccesskeyid", ""))
        if public is None:
            raise InstanceError(403, "Forbidden.AccessKeyNotFound", "no such client key")
        kind, _, value = headers.get("authorization", "").partition(" ")
        try:
            signature = b64_decode(value)
            public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except (EncodingError, InvalidSignature) as error:
            raise InstanceError(401, "Unauthorized", "signature does not match") from error
        if kind != "Bearer":
            raise InstanceError(401, "Unauthorized", "not Bearer")

    def _perform(self, operation: str, body: bytes) -> Message:
        try:
            match operation:
                case "Encrypt":
                    return self._encrypt(dkms_pb2.EncryptRequest.FromString(body))
                case "Decrypt":
                    return self._decrypt(dkms_pb2.DecryptRequest.FromString(body))
                case "GetSecretValue":
                    return self._get_secret(dkms_pb2.GetSecretValueRequest.FromString(body))
        except DecodeError as error:
            raise InstanceError(400, "InvalidParameter", "not the message") from error
        raise InstanceError(400, "InvalidParameter", "header x-kms-apiname")

    def _key(self, key_id: str, algorithm: str) -> AESGCM:
        if algorithm != "AES_GCM":
            raise InstanceError(400, "InvalidParameter", "algorithm")
        if key_id not in self._store.keys:
            raise InstanceError(403, "Forbidden.KeyNotFound", "The specified Key is not found.")
        return AESGCM(self._store.keys[key_id])

    def _encrypt(self, request: dkms_pb2.EncryptRequest) -> dkms_pb2.EncryptResponse:
        key = self._key(request.KeyId, request.Algorithm)
        iv = secrets.token_bytes(12)
        return dkms_pb2.EncryptResponse(
            KeyId=request.KeyId,
            CiphertextBlob=key.encrypt(iv, request.Plaintext, request.Aad),
            Iv=iv,
            RequestId="req-1",
            Algorithm=request.Algorithm,
        )

    def _decrypt(self, request: dkms_pb2.DecryptRequest) -> dkms_pb2.DecryptResponse:
        key = self._key(request.KeyId, request.Algorithm)
        try:
            plaintext = key.decrypt(request.Iv, request.CiphertextBlob, request.Aad)
        except (InvalidTag, ValueError) as error:
            raise InstanceError(400, "InvalidCiphertextBlob", "cannot be decrypted") from error
        return dkms_pb2.DecryptResponse(
            KeyId=request.KeyId,
            Plaintext=plaintext,
            RequestId="req-1",
            Algorithm=request.Algorithm,
        )

    def _get_secret(
        self, request: dkms_pb2.GetSecretValueRequest
    ) -> dkms_pb2.GetSecretValueResponse:
        if not request.FetchExtendedConfig:
            raise InstanceError(400, "InvalidParameter", "FetchExtendedConfig")
        found = self._store.find_secret(request.SecretName, request.VersionStage, request.VersionId)
        if found is None:
            raise InstanceError(404, "Forbidden.ResourceNotFound", "Resource not found.")
        return dkms_pb2.GetSecretValueResponse(
            SecretName=request.SecretName,
            SecretType="Generic",
            SecretData=found.data,
            SecretDataType="text",
            VersionStages=list(found.stages),
            VersionId=found.version_id,
            RequestId="req-1",
        )
