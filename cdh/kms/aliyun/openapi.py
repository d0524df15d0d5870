"""Signed requests to Alibaba Cloud's shared gateways, RPC style, and their answers. Sans-I/O.

All parameters stand in the query; one of them is an HMAC-SHA1 over the others.

Source: docs/spec/confidential-data-hub.md 8.3, 8.4 and 12.3.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from cdh.kms.aliyun.refusals import refusal
from cdh.kms.aliyun.settings import SecretVersion
from cdh.kms.answers import foreign_answer
from guest import jsonio, wire
from guest.errors import DecodeError, GuestError, PeerError
from guest.secret import Secret

KMS_VERSION: Final = "2016-01-20"
STS_VERSION: Final = "2015-04-01"

MAX_ANSWER_LENGTH: Final = 1024 * 1024
"""Most bytes of an answer that are read."""

MAX_DEPTH: Final = 16

CENTRAL_STS_REGIONS: Final = frozenset({"cn-hangzhou-finance", "cn-shenzhen-finance-1"})
"""Regions whose security token service is the central one."""

DEFAULT_SESSION_NAME: Final = "zero-trust-session"

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A temporary access key.

    Attributes:
        key_id: public.
        secret: signs.
        token: goes along with every request.
        expires: aware; None where nobody said.
    """

    key_id: str
    secret: Secret
    token: Secret
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request with an empty body.

    Attributes:
        url: with all parameters; holds tokens, so that it belongs in no log.
        headers: besides the usual.
    """

    url: Secret
    headers: Headers


class _SecretJson(msgspec.Struct, frozen=True, rename="pascal"):
    secret_data: str | None = None


class _KeyJson(msgspec.Struct, frozen=True, rename="pascal"):
    access_key_id: str
    access_key_secret: str
    security_token: str
    expiration: str | None = None
    code: str | None = None


class _RoleJson(msgspec.Struct, frozen=True, rename="pascal"):
    credentials: _KeyJson


class _RefusalJson(msgspec.Struct, frozen=True, rename="pascal"):
    code: str
    request_id: str = ""
    message: str = ""


T = TypeVar("T", bound=msgspec.Struct)


def percent_encode(text: str) -> str:
    """RFC 3986: everything but `A-Za-z0-9-_.~`, upper-case digits."""
    return quote(text, safe="")


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Encoded pairs, sorted by name."""
    return "&".join(
        f"{percent_encode(name)}={percent_encode(parameters[name])}" for name in sorted(parameters)
    )


def string_to_sign(parameters: Mapping[str, str]) -> bytes:
    """What the access key signs; `parameters` are all but `Signature`."""
    return f"POST&%2F&{percent_encode(canonical_query(parameters))}".encode("ascii")


def sign(parameters: Mapping[str, str], secret: Secret) -> str:
    """The value of `Signature`."""
    mac = hmac.new(secret.reveal() + b"&", string_to_sign(parameters), hashlib.sha1)
    return wire.encode_base64(mac.digest())


def get_secret_request(
    region_id: str, name: str, version: SecretVersion, *, key: AccessKey, nonce: str, now: datetime
) -> ApiRequest:
    """Read a secret.

    Args:
        region_id: verified; names the gateway.
        name: of the secret.
        version: which version of it.
        key: signs.
        nonce: never used before.
        now: aware.
    """
    parameters = {
        "SecretName": name,
        "VersionStage": version.stage,
        "VersionId": version.version_id,
        "FetchExtendedConfig": "true",
        "Version": KMS_VERSION,
        "Action": "GetSecretValue",
        "Format": "json",
        "RegionId": region_id,
        "Timestamp": timestamp(now),
        "SignatureMethod": "HMAC-SHA1",
        "SignatureType": "",
        "SignatureVersion": "1.0",
        "SignatureNonce": nonce,
        "AccessKeyId": key.key_id,
        "SecurityToken": key.token.reveal().decode("ascii"),
    }
    parameters["Signature"] = sign(parameters, key.secret)
    headers = (("x-acs-version", KMS_VERSION), ("x-acs-action", "GetSecretValue"))
    return _request(f"kms.{region_id}.aliyuncs.com", parameters, headers)


def assume_role_request(
    region_id: str,
    *,
    id_token: Secret,
    provider_arn: str,
    role_arn: str,
    session_name: str,
    now: datetime,
) -> ApiRequest:
    """Trade an identity token for an access key; nothing signs it.

    Args:
        region_id: verified; names the service.
        id_token: ASCII.
        provider_arn: who issued the token.
        role_arn: whom to become.
        session_name: stands in the cloud's records.
        now: aware.
    """
    parameters = {
        "Action": "AssumeRoleWithOIDC",
        "Format": "json",
        "RoleArn": role_arn,
        "OIDCProviderArn": provider_arn,
        "OIDCToken": id_token.reveal().decode("ascii"),
        "RoleSessionName": session_name,
        "Timestamp": timestamp(now),
    }
    headers = (
        ("x-acs-version", STS_VERSION),
        ("x-acs-action", "AssumeRoleWithOIDC"),
        ("Accept", "application/json"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    )
    is_central = region_id in CENTRAL_STS_REGIONS
    sts_host = "sts.aliyuncs.com" if is_central else f"sts.{region_id}.aliyuncs.com"
    return _request(sts_host, parameters, headers)


def decode_secret(status: int, body: bytes) -> Secret:
    """The secret of an answer: the UTF-8 bytes of its text.

    Raises:
        GuestError: the gateway refused, see `cdh.kms.aliyun.refusals`; `PeerError` for an answer
            that is none.
    """
    data = decode_answer(_SecretJson, status, body).secret_data
    if data is None:
        raise PeerError("get 'SecretData' from get_secret response failed.")
    return Secret(data.encode("utf-8"))


def decode_assumed_role(status: int, body: bytes) -> AccessKey:
    """The access key of an answer of the security token service.

    Raises:
        GuestError: as `decode_secret`.
    """
    return _access_key(decode_answer(_RoleJson, status, body).credentials)


def decode_role_key(body: bytes) -> AccessKey:
    """The access key of a machine's role, as the metadata server gives it with status 200.

    Raises:
        PeerError: not such a document, or one that says it is no success.
    """
    answer = decode_answer(_KeyJson, 200, body)
    if answer.code not in (None, "Success"):
        raise PeerError("metadata server has no access key for the role")
    return _access_key(answer)


def _access_key(answer: _KeyJson) -> AccessKey:
    parts = (answer.access_key_id, answer.access_key_secret, answer.security_token)
    if not all(part and part.isascii() and part.isprintable() for part in parts):
        raise PeerError("access key of the answer is empty or not ASCII")
    return AccessKey(
        key_id=answer.access_key_id,
        secret=Secret(answer.access_key_secret.encode("ascii")),
        token=Secret(answer.security_token.encode("ascii")),
        expires=_expiration(answer.expiration),
    )


def _expiration(text: str | None) -> datetime | None:
    """A time that cannot be read is none: the key is then used once."""
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _request(host: str, parameters: Mapping[str, str], headers: Headers) -> ApiRequest:
    url = f"https://{host}/?{canonical_query(parameters)}"
    return ApiRequest(url=Secret(url.encode("ascii")), headers=headers)


def timestamp(now: datetime) -> str:
    """A time as the gateways take it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decode_answer(kind: type[T], status: int, body: bytes) -> T:
    """An answer of success as what it should be.

    Raises:
        GuestError: the gateway refused, see `cdh.kms.aliyun.refusals`; `PeerError` for an answer
            that is none.
    """
    if not 200 <= status < 300:
        raise _decode_refusal(status, body)
    try:
        return jsonio.decode(body, kind, max_depth=MAX_DEPTH, max_bytes=MAX_ANSWER_LENGTH)
    except DecodeError as error:
        raise foreign_answer(status, body) from error


def _decode_refusal(status: int, body: bytes) -> GuestError:
    try:
        answer = jsonio.decode(body, _RefusalJson, max_depth=MAX_DEPTH, max_bytes=MAX_ANSWER_LENGTH)
    except DecodeError:
        return foreign_answer(status, body)
    return refusal(
        status=status, code=answer.code, message=answer.message, request_id=answer.request_id
    )
