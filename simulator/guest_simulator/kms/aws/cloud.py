"""AWS on loopback: `async with AwsCloud() as cloud`.

Clients use the real host names: `proxy` leads them all here, and `ca` vouches for them.

Source: docs/spec/confidential-data-hub.md 8.6.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64_encode,
    canonical_json,
    compact_json,
    parse_object,
    text_member,
)
from guest_simulator.kms.aws.signature import AwsError, SignedRequest, verify
from guest_simulator.kms.aws.store import AwsStore
from guest_simulator.kms.cloud import Cloud
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

REGIONS: Final = {"us-east-1": "amazonaws.com", "cn-north-1": "amazonaws.com.cn"}
NAMES: Final = tuple(
    f"{service}.{region}.{domain}"
    for service in ("kms", "secretsmanager")
    for region, domain in REGIONS.items()
)
"""What the certificate stands for, and what is answered."""

HOST: Final = re.compile(r"(?P<service>kms|secretsmanager)\.(?P<region>[a-z0-9-]+)\.")
MEDIA_TYPE: Final = "application/x-amz-json-1.1"
REQUEST_ID: Final = "req-aws-1"
BODY_LIMIT: Final = 128 * 1024
NONCE_LENGTH: Final = 12
MAX_SECRET_LENGTH: Final = 65_536
SECRET_NAME: Final = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")

Members = Mapping[str, object]


class AwsCloud(Cloud):
    """KMS and Secrets Manager of two regions.

    Attributes:
        store: what they know.
    """

    def __init__(self) -> None:
        super().__init__("aws simulator CA", NAMES, self._handle)
        self.store = AwsStore()
        self._operations: Mapping[tuple[str, str], Callable[[Members], dict[str, object]]] = {
            ("kms", "TrentService.Decrypt"): self._decrypt,
            ("kms", "TrentService.Encrypt"): self._encrypt,
            ("secretsmanager", "secretsmanager.GetSecretValue"): self._get_secret,
            ("secretsmanager", "secretsmanager.CreateSecret"): self._create_secret,
            ("secretsmanager", "secretsmanager.PutSecretValue"): self._put_secret,
        }

    async def _handle(self, request: Incoming) -> Reply:
        headers = {"Content-Type": MEDIA_TYPE, "x-amzn-RequestId": REQUEST_ID}
        try:
            body = compact_json(await self._answer(request))
        except AwsError as error:
            name = "message" if "Exception" in error.kind else "Message"
            refused = {"__type": f"com.amazonaws#{error.kind}", name: error.message}
            return Reply(status=error.status, headers=headers, body=compact_json(refused))
        return Reply(headers=headers, body=body)

    async def _answer(self, request: Incoming) -> dict[str, object]:
        host = request.host.partition(":")[0]
        match = HOST.match(host)
        if match is None or host not in NAMES:
            raise AwsError(400, "UnknownEndpoint", f"no such host {host}")
        if (request.method, request.path, request.query) != ("POST", "/", ""):
            raise AwsError(404, "UnknownOperationException", "not POST /")
        if request.header("content-type") != MEDIA_TYPE:
            raise AwsError(404, "UnknownOperationException", "content type")
        body = await request.read(BODY_LIMIT)
        signed = SignedRequest(
            headers=request.headers(), body=body, service=match["service"], region=match["region"]
        )
        verify(signed, self.store)
        operation = self._operations.get((match["service"], request.header("x-amz-target")))
        if operation is None:
            raise AwsError(400, "UnknownOperationException", "")
        try:
            return operation(parse_object(body))
        except EncodingError as error:
            raise AwsError(400, "SerializationException", str(error)) from error

    def _key(self, members: Members) -> tuple[str, AESGCM]:
        key_id = text_member(members, "KeyId")
        if key_id not in self.store.keys:
            raise AwsError(400, "NotFoundException", f"Alias or key {key_id} is not found.")
        return key_id, AESGCM(self.store.keys[key_id])

    def _decrypt(self, members: Members) -> dict[str, object]:
        _refuse_others(members, "KeyId", "CiphertextBlob", "EncryptionContext")
        key_id, key = self._key(members)
        blob = b64_decode(text_member(members, "CiphertextBlob"))
        try:
            plaintext = key.decrypt(blob[:NONCE_LENGTH], blob[NONCE_LENGTH:], _context(members))
        except (InvalidTag, ValueError) as error:
            raise AwsError(400, "InvalidCiphertextException", "") from error
        return {
            "KeyId": key_id,
            "Plaintext": b64_encode(plaintext),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }

    def _encrypt(self, members: Members) -> dict[str, object]:
        _refuse_others(members, "KeyId", "Plaintext", "EncryptionContext")
        key_id, key = self._key(members)
        nonce = secrets.token_bytes(NONCE_LENGTH)
        plaintext = b64_decode(text_member(members, "Plaintext"))
        blob = nonce + key.encrypt(nonce, plaintext, _context(members))
        return {"KeyId": key_id, "CiphertextBlob": b64_encode(blob)}

    def _get_secret(self, members: Members) -> dict[str, object]:
        _refuse_others(members, "SecretId", "VersionId", "VersionStage")
        for name in ("VersionId", "VersionStage"):
            if name in members and not text_member(members, name):
                raise AwsError(400, "ValidationException", f"{name} is empty")
        name = text_member(members, "SecretId")
        version_id, stage = (str(members.get(k, "")) for k in ("VersionId", "VersionStage"))
        found = self.store.find_secret(name, version_id, stage)
        if found is None:
            text = "Secrets Manager can't find the specified secret."
            raise AwsError(400, "ResourceNotFoundException", text)
        value: dict[str, object] = (
            {"SecretString": found.value}
            if isinstance(found.value, str)
            else {"SecretBinary": b64_encode(found.value)}
        )
        return {"Name": name, "VersionId": found.version_id, **value}

    def _create_secret(self, members: Members) -> dict[str, object]:
        _refuse_others(members, "Name", "SecretBinary", "ClientRequestToken")
        name = text_member(members, "Name")
        if SECRET_NAME.fullmatch(name) is None:
            raise AwsError(400, "ValidationException", "Invalid name.")
        if name in self.store.secrets and not self._is_stored(name, members):
            text = f"The operation failed because the secret {name} already exists."
            raise AwsError(400, "ResourceExistsException", text)
        return self._store_secret(name, members)

    def _put_secret(self, members: Members) -> dict[str, object]:
        _refuse_others(members, "SecretId", "SecretBinary", "ClientRequestToken")
        name = text_member(members, "SecretId")
        if name not in self.store.secrets:
            text = "Secrets Manager can't find the specified secret."
            raise AwsError(400, "ResourceNotFoundException", text)
        return self._store_secret(name, members)

    def _store_secret(self, name: str, members: Members) -> dict[str, object]:
        token = text_member(members, "ClientRequestToken")
        value = b64_decode(text_member(members, "SecretBinary"))
        if not 32 <= len(token) <= 64 or not 1 <= len(value) <= MAX_SECRET_LENGTH:
            raise AwsError(400, "ValidationException", "token or secret has the wrong length")
        if not self._is_stored(name, members):
            if self.store.find_secret(name, token, "") is not None:
                text = "You can't use ClientRequestToken of another value."
                raise AwsError(400, "ResourceExistsException", text)
            self.store.put_secret(name, value, token)
        return {"ARN": f"arn:aws:secretsmanager::1:secret:{name}", "Name": name, "VersionId": token}

    def _is_stored(self, name: str, members: Members) -> bool:
        """Whether this very request was answered before."""
        found = self.store.find_secret(name, text_member(members, "ClientRequestToken"), "")
        value = b64_decode(text_member(members, "SecretBinary"))
        return found is not None and found.value == value


def _refuse_others(members: Members, *known: str) -> None:
    if set(members) - set(known):
        raise AwsError(400, "SerializationException", "unknown members")


def _context(members: Members) -> bytes:
    """What authenticates a ciphertext besides its key."""
    return canonical_json(members.get("EncryptionContext", {}))
