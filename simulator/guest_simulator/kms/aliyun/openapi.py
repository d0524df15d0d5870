"""The shared gateways: KMS of a region, which checks the HMAC-SHA1, and the token service.

Source: docs/spec/confidential-data-hub.md 8.3 and 12.3.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from guest_simulator.encoding import b64_encode, compact_json
from guest_simulator.kms.aliyun.store import AliyunStore, IssuedKey
from guest_simulator.reply import Reply
from guest_simulator.service import Incoming

SKEW_SECONDS: Final = 900.0
UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
SIGNED: Final = (
    "AccessKeyId", "Action", "FetchExtendedConfig", "Format", "RegionId", "SecretName",
    "SecurityToken", "SignatureMethod", "SignatureNonce", "SignatureType", "SignatureVersion",
    "Timestamp", "Version", "VersionId", "VersionStage",
)  # fmt: skip
"""Parameters of GetSecretValue besides the signature: all of them, empty ones too."""

FIXED: Final[Mapping[str, str]] = {
    "Action": "GetSecretValue",
    "FetchExtendedConfig": "true",
    "Format": "json",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureType": "",
    "SignatureVersion": "1.0",
    "Version": "2016-01-20",
}
ASSUMED: Final = (
    "Action", "Format", "OIDCProviderArn", "OIDCToken", "RoleArn", "RoleSessionName", "Timestamp",
)  # fmt: skip


class ApiError(Exception):
    """A refusal: status, code, text."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def error_body(status: int, code: str, message: str) -> bytes:
    """The JSON of a refusal."""
    return compact_json(
        {"HttpStatus": status, "RequestId": "req-2", "Code": code, "Message": message}
    )


def encode(text: str) -> str:
    """Percent-encode all but the unreserved characters."""
    return "".join(chr(b) if b in UNRESERVED else f"%{b:02X}" for b in text.encode())


def string_to_sign(parameters: Mapping[str, str]) -> str:
    """What was signed, from the parameters as they arrived."""
    pairs = [f"{encode(k)}={encode(v)}" for k, v in sorted(parameters.items()) if k != "Signature"]
    return f"POST&{encode('/')}&{encode('&'.join(pairs))}"


def parse_query(query: str) -> dict[str, str]:
    """Name to value; `+` is a plus.

    Raises:
        ApiError: a name twice, or not UTF-8.
    """
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        try:
            key, text = (unquote_to_bytes(part).decode() for part in (name, value))
        except UnicodeDecodeError as error:
            raise ApiError(400, "InvalidParameter", "not UTF-8") from error
        if key in found:
            raise ApiError(400, "InvalidParameter", f"{key} twice")
        found[key] = text
    return found


def format_time(seconds: float) -> str:
    """A time as these services write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def verify_time(text: str, now: float) -> None:
    """Insist on a time that is near.

    Raises:
        ApiError: it is not, or it is no time.
    """
    try:
        date = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ApiError(400, "InvalidTimeStamp.Format", text) from error
    if abs(date.timestamp() - now) > SKEW_SECONDS:
        raise ApiError(400, "InvalidTimeStamp.Expired", text)


class SharedGateways:
    """Answers for `kms.<region>.aliyuncs.com` and `sts.<region>.aliyuncs.com`."""

    def __init__(self, store: AliyunStore) -> None:
        self._store = store

    async def answer(self, request: Incoming, service: str, region: str) -> Reply:
        """The answer to a request for one service, or the refusal it earns."""
        headers = {"Content-Type": "application/json;charset=utf-8"}
        try:
            if request.method != "POST" or request.path != "/" or await request.read(1024):
                raise ApiError(400, "InvalidRequest", "not an empty POST /")
            parameters = parse_query(request.query)
            if service == "kms":
                body = self._get_secret(request, parameters, region)
            else:
                body = self._assume_role(request, parameters)
        except ApiError as error:
            refused = error_body(error.status, error.code, error.message)
            return Reply(status=error.status, headers=headers, body=refused)
        return Reply(headers=headers, body=body)

    def _get_secret(self, request: Incoming, given: Mapping[str, str], region: str) -> bytes:
        if request.header("x-acs-action") != "GetSecretValue":
            raise ApiError(400, "InvalidParameter", "header x-acs-action")
        if request.header("x-acs-version") != "2016-01-20":
            raise ApiError(400, "InvalidParameter", "header x-acs-version")
        if sorted(given) != sorted((*SIGNED, "Signature")):
            raise ApiError(400, "MissingParameter", "parameters")
        for name, value in {**FIXED, "RegionId": region}.items():
            if given[name] != value:
                raise ApiError(400, "InvalidParameter", name)
        verify_time(given["Timestamp"], self._store.clock.now())
        self._verify_signature(given)
        found = self._store.find_secret(
            given["SecretName"], given["VersionStage"], given["VersionId"]
        )
        if found is None:
            raise ApiError(404, "Forbidden.ResourceNotFound", "Resource not found.")
        answer = {"SecretName": given["SecretName"], "SecretData": found.data}
        return compact_json(answer | {"VersionId": found.version_id, "RequestId": "req-2"})

    def _verify_signature(self, given: Mapping[str, str]) -> None:
        key = self._store.access_keys.get(given["AccessKeyId"])
        if key is None:
            raise ApiError(404, "InvalidAccessKeyId.NotFound", "no such access key")
        if given["SecurityToken"] != key.token or key.expires < self._store.clock.now():
            raise ApiError(400, "InvalidSecurityToken.Expired", "token is not valid any more")
        signed = string_to_sign(given)
        mac = hmac.new(f"{key.secret}&".encode(), signed.encode(), hashlib.sha1).digest()
        if given["Signature"] != b64_encode(mac):
            raise ApiError(
                400, "SignatureDoesNotMatch", f"wrong signature. server string to sign is:{signed}"
            )
        if given["SignatureNonce"] in self._store.nonces:
            raise ApiError(400, "SignatureNonceUsed", "nonce was used")
        self._store.nonces.add(given["SignatureNonce"])

    def _assume_role(self, request: Incoming, given: Mapping[str, str]) -> bytes:
        if request.header("x-acs-action") != "AssumeRoleWithOIDC" or (
            request.header("x-acs-version") != "2015-04-01"
        ):
            raise ApiError(400, "InvalidParameter", "headers")
        if sorted(given) != sorted(ASSUMED) or not all(given.values()):
            raise ApiError(400, "MissingParameter", "parameters")
        verify_time(given["Timestamp"], self._store.clock.now())
        if self._store.id_tokens.get(given["OIDCToken"]) != given["RoleArn"]:
            raise ApiError(403, "AuthenticationFail.OIDCToken.Invalid", "token is not for the role")
        key = self._store.issue()
        name = given["RoleSessionName"]
        return compact_json(
            {
                "RequestId": "req-3",
                "OIDCTokenInfo": {
                    "Issuer": "https://issuer.example",
                    "VerificationInfo": "Success",
                },
                "AssumedRoleUser": {"AssumedRoleId": f"1:{name}", "Arn": given["RoleArn"]},
                "Credentials": credentials(key),
            }
        )


def credentials(key: IssuedKey) -> dict[str, str]:
    """A temporary access key as JSON has it."""
    return {
        "AccessKeyId": key.key_id,
        "AccessKeySecret": key.secret,
        "SecurityToken": key.token,
        "Expiration": format_time(key.expires),
    }
