"""A KMS instance that verifies evidence: signed forms, challenges, secrets for an attested key.

It takes the sample TEE's evidence, whose report data stand in it as text.

Source: docs/spec/confidential-data-hub.md 12.4.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from guest_simulator.encoding import (
    EncodingError,
    b64_decode,
    b64_encode,
    b64url_decode,
    canonical_json,
    compact_json,
    parse_object,
    text_member,
)
from guest_simulator.kms.aliyun.openapi import (
    ApiError,
    error_body,
    parse_query,
    string_to_sign,
    verify_time,
)
from guest_simulator.kms.aliyun.store import AliyunStore
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
BODY_LIMIT: Final = 256 * 1024
COMMON: Final = (
    "AccessKeyId", "Action", "Format", "SecurityToken", "Signature", "SignatureMethod",
    "SignatureNonce", "SignatureVersion", "Timestamp", "Version",
)  # fmt: skip
SECRET: Final = (
    *COMMON, "FetchExtendedConfig", "Recipient", "SecretName", "VersionId", "VersionStage",
)  # fmt: skip
FIXED: Final[Mapping[str, str]] = {
    "Format": "JSON",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureVersion": "1.0",
    "Version": "2016-01-20",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a recipient says: who it is and why it may be believed."""

    tee: str
    evidence: bytes
    structured: Mapping[str, object]


class TrusteeInstance:
    """Answers forms for one instance.

    Attributes:
        challenges: nonces by token that were given and not used.
        tee: the only one that is believed.
    """

    def __init__(self, store: AliyunStore) -> None:
        self._store = store
        self.challenges: dict[str, str] = {}
        self.tee = "tdx"

    async def answer(self, request: Incoming) -> Reply:
        """The answer to a form, or the refusal it earns."""
        headers = {"Content-Type": "application/json;charset=utf-8"}
        try:
            body = (await request.read(BODY_LIMIT)).decode("ascii", "replace")
            if request.method != "POST" or request.path != "/" or request.query:
                raise ApiError(400, "InvalidRequest", "not POST /")
            answer = self._perform(parse_query(body))
        except ApiError as error:
            refused = error_body(error.status, error.code, error.message)
            return Reply(status=error.status, headers=headers, body=refused)
        except EncodingError as error:
            refused = error_body(400, "InvalidParameter", str(error))
            return Reply(status=400, headers=headers, body=refused)
        return Reply(headers=headers, body=compact_json({"RequestId": "req-4", **answer}))

    def _perform(self, given: Mapping[str, str]) -> dict[str, object]:
        action = given.get("Action")
        if sorted(given) != sorted(SECRET if action == "GetSecretValue" else COMMON):
            raise ApiError(400, "MissingParameter", "parameters")
        for name, value in FIXED.items():
            if given[name] != value:
                raise ApiError(400, "InvalidParameter", name)
        verify_time(given["Timestamp"], self._store.clock.now())
        self._verify_signature(given)
        if action == "GetChallenge":
            token, nonce = f"token ✓ {secrets.token_hex(8)}", b64_encode(secrets.token_bytes(32))
            self.challenges[token] = nonce
            return {"Nonce": nonce, "ChallengeToken": token}
        if action == "GetSecretValue":
            return self._get_secret(given)
        raise ApiError(404, "InvalidAction.NotFound", "action")

    def _verify_signature(self, given: Mapping[str, str]) -> None:
        key = self._store.access_keys.get(given["AccessKeyId"])
        if key is None:
            raise ApiError(404, "InvalidAccessKeyId.NotFound", "no such access key")
        if given["SecurityToken"] != key.token or key.expires < self._store.clock.now():
            raise ApiError(400, "InvalidSecurityToken.Expired", "token is not valid any more")
        text = string_to_sign(given)
        mac = hmac.new(f"{key.secret}&".encode(), text.encode(), hashlib.sha1).digest()
        if given["Signature"] != b64_encode(mac) or given["SignatureNonce"] in self._store.nonces:
            raise ApiError(400, "SignatureDoesNotMatch", f"server string to sign is:{text}")
        self._store.nonces.add(given["SignatureNonce"])

    def _get_secret(self, given: Mapping[str, str]) -> dict[str, object]:
        proof = parse_recipient(given["Recipient"])
        nonce = self.challenges.pop(text_member(proof.structured, "challenge_token"), None)
        if nonce is None or nonce != text_member(proof.structured, "nonce"):
            raise ApiError(403, "Forbidden.Challenge", "unknown challenge")
        report_data = hashlib.sha384(canonical_json(proof.structured)).digest()
        evidence = parse_object(proof.evidence)
        bound = b64_decode(text_member(evidence, "report_data"))
        if proof.tee != self.tee or bound != report_data:
            raise ApiError(403, "Forbidden.Attestation", "evidence is not accepted")
        found = self._store.find_secret(
            given["SecretName"], given["VersionStage"], given["VersionId"]
        )
        if found is None:
            raise ApiError(404, "Forbidden.ResourceNotFound", "Resource not found.")
        sha256 = hashes.SHA256()
        sealed = public_key(proof.structured).encrypt(
            found.data.encode(), padding.OAEP(padding.MGF1(sha256), sha256, None)
        )
        return {"SecretName": given["SecretName"], "CiphertextForRecipient": b64_encode(sealed)}


def parse_recipient(text: str) -> Proof:
    """Read the value of `Recipient`.

    Raises:
        ApiError: other methods than these.
        EncodingError: it is malformed.
    """
    recipient = parse_object(text)
    names = ("type", "KeyEncryptionAlgorithm")
    if [text_member(recipient, name) for name in names] != ["Trustee", "RSAES_OAEP_SHA_256"]:
        raise ApiError(400, "InvalidParameter", "Recipient")
    encoded = text_member(recipient, "attestationDocument")
    if len(encoded) % 4:
        raise ApiError(400, "InvalidParameter", "attestationDocument is not padded")
    document = parse_object(base64.urlsafe_b64decode(encoded))
    if text_member(document, "runtime_data_hash_algorithm") != "sha384":
        raise ApiError(400, "InvalidParameter", "runtime_data_hash_algorithm")
    runtime_data = document.get("runtime_data")
    structured = runtime_data.get("structured") if isinstance(runtime_data, dict) else None
    if not isinstance(structured, dict):
        raise ApiError(400, "InvalidParameter", "runtime_data")
    return Proof(
        tee=text_member(document, "tee"),
        evidence=b64url_decode(text_member(document, "evidence")),
        structured=structured,
    )


def public_key(structured: Mapping[str, object]) -> rsa.RSAPublicKey:
    """The recipient's key.

    Raises:
        ApiError: it is none.
    """
    key = structured.get("tee-pubkey")
    if not isinstance(key, dict) or sorted(key) != ["alg", "k-exp", "k-mod"]:
        raise ApiError(400, "InvalidParameter", "tee-pubkey")
    n, e = (
        int.from_bytes(b64url_decode(text_member(key, name)), "big") for name in ("k-mod", "k-exp")
    )
    if key["alg"] != "RSA" or n.bit_length() != 2048:
        raise ApiError(400, "InvalidParameter", "tee-pubkey")
    return rsa.RSAPublicNumbers(e, n).public_key()
