"""Checks signature version 4 of a request as it arrived. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.6.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives import hashes, hmac

from guest_simulator.kms.aws.store import AwsStore

SKEW_SECONDS: Final = 300.0
REQUIRED: Final = ("content-type", "host", "x-amz-date", "x-amz-target")
AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/, ]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)"
    r"/(?P<service>[a-z]+)/aws4_request, ?SignedHeaders=(?P<names>[a-z0-9;-]+), ?"
    r"Signature=(?P<signature>[0-9a-f]{64})\Z"
)


class AwsError(Exception):
    """A refusal: status, type, text."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request before it is believed; `headers` by lower-case name."""

    headers: Mapping[str, str]
    body: bytes
    service: str
    region: str


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize().hex()


def _mac(key: bytes, text: str) -> bytes:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(text.encode())
    return mac.finalize()


def verify(request: SignedRequest, store: AwsStore) -> None:
    """Insist that a known key signed this request for this service, now.

    Raises:
        AwsError: it did not.
    """
    header = request.headers.get("authorization", "")
    match = AUTHORIZATION.match(header)
    if match is None:
        raise AwsError(400, "IncompleteSignatureException", "Authorization header is malformed.")
    names = match["names"].split(";")
    if names != sorted(set(names)) or not set(REQUIRED) <= set(names):
        raise AwsError(400, "IncompleteSignatureException", "signed headers are incomplete.")
    if not all(name in request.headers for name in names):
        raise AwsError(400, "IncompleteSignatureException", "a signed header is missing.")
    key = store.access_keys.get(match["key"])
    token = request.headers.get("x-amz-security-token", "")
    if key is None or key.token != token or (token and "x-amz-security-token" not in names):
        raise AwsError(
            400,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )
    _verify_time(request.headers["x-amz-date"], match["date"], store)
    if (match["service"], match["region"]) != (request.service, request.region):
        raise AwsError(400, "InvalidSignatureException", "Credential should be scoped elsewhere.")
    lines = [f"{name}:{' '.join(request.headers[name].split())}" for name in names]
    canonical = "\n".join(["POST", "/", "", *lines, "", match["names"], sha256(request.body)])
    scope = [match["date"], match["region"], match["service"], "aws4_request"]
    text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{'/'.join(scope)}\n"
    text += sha256(canonical.encode())
    secret = f"AWS4{key.secret}".encode()
    for part in scope:
        secret = _mac(secret, part)
    if _mac(secret, text).hex() != match["signature"]:
        raise AwsError(
            400,
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.\n\n"
            f"The Canonical String for this request should have been\n'{canonical}'\n\n"
            f"The String-to-Sign should have been\n'{text}'\n",
        )


def _verify_time(text: str, date: str, store: AwsStore) -> None:
    try:
        time = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise AwsError(400, "IncompleteSignatureException", "X-Amz-Date is malformed.") from error
    if not text.startswith(date) or abs(time.timestamp() - store.clock.now()) > SKEW_SECONDS:
        raise AwsError(400, "InvalidSignatureException", "Signature expired.")
