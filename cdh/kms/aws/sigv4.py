"""Signature version 4 for a POST to `/`. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 8.6.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from cdh.kms.aws.settings import AwsCredentials

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TERMINATOR: Final = "aws4_request"

Headers = tuple[tuple[str, str], ...]


def canonical_request(headers: Mapping[str, str], body: bytes) -> bytes:
    """What is signed of a request.

    Args:
        headers: by lower-case name; all of them are signed.
        body: as sent.
    """
    names = sorted(headers)
    lines = "".join(f"{name}:{headers[name]}\n" for name in names)
    text = f"POST\n/\n\n{lines}\n{';'.join(names)}\n{hashlib.sha256(body).hexdigest()}"
    return text.encode("ascii")


def signed_headers(
    headers: Mapping[str, str],
    body: bytes,
    *,
    region: str,
    service: str,
    credentials: AwsCredentials,
    now: datetime,
) -> Headers:
    """All headers of a request but `Host`, signed.

    Args:
        headers: by lower-case name, `host` and the content's type among them.
        body: as sent.
        region: of the service.
        service: its name in signatures.
        credentials: sign.
        now: aware.
    """
    time = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    signed = {**headers, "x-amz-date": time}
    if credentials.token is not None:
        signed["x-amz-security-token"] = credentials.token.reveal().decode("ascii")
    scope = (time[:8], region, service, TERMINATOR)
    digest = hashlib.sha256(canonical_request(signed, body)).hexdigest()
    text = "\n".join((ALGORITHM, time, "/".join(scope), digest))
    key = b"AWS4" + credentials.secret.reveal()
    for part in (*scope, text):
        key = hmac.new(key, part.encode("ascii"), hashlib.sha256).digest()
    authorization = (
        f"{ALGORITHM} Credential={credentials.key_id}/{'/'.join(scope)}, "
        f"SignedHeaders={';'.join(sorted(signed))}, Signature={key.hex()}"
    )
    sent = tuple((name, value) for name, value in signed.items() if name != "host")
    return (*sent, ("authorization", authorization))
