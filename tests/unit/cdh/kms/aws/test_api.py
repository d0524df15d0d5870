"""Requests to AWS are the published ones; its answers are read strictly."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.aws import api
from cdh.kms.aws.settings import AwsCredentials, SecretVersion
from cdh.kms.aws.sigv4 import canonical_request
from guest.errors import (
    DeniedError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.secret import Secret
from support.aws_world import VECTORS

SECRET_KEY = VECTORS["secret_access_key"]
NOW = datetime.fromisoformat(VECTORS["now"])
TEXTS = st.text(min_size=1, max_size=30)
DECODERS: tuple[Callable[[int, bytes, str], object], ...] = (
    api.decode_plaintext,
    api.decode_ciphertext,
    api.decode_secret,
    api.decode_stored,
)


def credentials(key_id: str, token: str | None = None) -> AwsCredentials:
    return AwsCredentials(
        key_id=key_id,
        secret=Secret(SECRET_KEY.encode()),
        token=None if token is None else Secret(token.encode()),
    )


def decrypt_request() -> tuple[Any, api.AwsRequest]:
    given = VECTORS["decrypt"]
    return given, api.decrypt_request(given["ciphertext"].encode(), given["key_id"], {})


def test_a_decryption_is_the_published_request() -> None:
    given, request = decrypt_request()
    assert request.body.decode() == given["body"]
    assert hashlib.sha256(request.body).hexdigest() == given["body_sha256"]
    assert request.host("us-east-1") == "kms.us-east-1.amazonaws.com"
    headers = dict(request.headers("us-east-1", credentials(given["access_key_id"]), NOW))
    assert headers == {
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": "TrentService.Decrypt",
        "x-amz-date": "20260820T120000Z",
        "authorization": given["authorization"],
    }
    signed = {name: value for name, value in headers.items() if name != "authorization"}
    canonical = canonical_request(signed | {"host": request.host("us-east-1")}, request.body)
    assert hashlib.sha256(canonical).hexdigest() == given["canonical_sha256"]


def test_a_secret_is_asked_for_with_the_published_request() -> None:
    given = VECTORS["get_secret"]
    request = api.get_secret_request(given["name"], SecretVersion(stage=given["version_stage"]))
    assert request.body.decode() == given["body"]
    key = credentials(given["access_key_id"], given["session_token"])
    headers = dict(request.headers("us-east-1", key, NOW))
    assert headers["authorization"] == given["authorization"]
    assert headers["x-amz-security-token"] == given["session_token"]
    assert headers["x-amz-target"] == "secretsmanager.GetSecretValue"


@given(
    key_id=TEXTS,
    context=st.dictionaries(TEXTS, TEXTS, max_size=3),
    token=st.none() | st.text("aZ09+/=", min_size=1),
    region=st.sampled_from(["us-east-1", "cn-north-1", "eu-central-2"]),
)
def test_the_vendors_own_library_signs_the_same(
    key_id: str, context: dict[str, str], token: str | None, region: str
) -> None:
    check_against_botocore(api.decrypt_request(b"x", key_id, context), token, region)


def check_against_botocore(request: api.AwsRequest, token: str | None, region: str) -> None:
    ours = dict(request.headers(region, credentials("AKIDEXAMPLE", token), NOW))
    theirs = AWSRequest(
        method="POST",
        url=f"https://{request.host(region)}/",
        headers={name: ours[name] for name in ("content-type", "x-amz-target")},
        data=request.body,
    )
    theirs.context["timestamp"] = ours["x-amz-date"]
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", SECRET_KEY, token), "kms", region)
    theirs.headers["X-Amz-Date"] = ours["x-amz-date"]
    if token is not None:
        theirs.headers["X-Amz-Security-Token"] = token
    canonical = signer.canonical_request(theirs)
    signature = signer.signature(signer.string_to_sign(theirs, canonical), theirs)
    assert ours["authorization"].endswith(f"Signature={signature}")


def test_members_stand_in_a_request_only_where_they_say_something() -> None:
    assert json.loads(api.get_secret_request("n", SecretVersion()).body) == {"SecretId": "n"}
    named = SecretVersion(version_id="v", stage="s")
    assert json.loads(api.get_secret_request("n", named).body) == {
        "SecretId": "n",
        "VersionId": "v",
        "VersionStage": "s",
    }
    body = api.decrypt_request(b"x", "k", {"a": "b"}).body
    assert body == b'{"KeyId":"k","CiphertextBlob":"eA==","EncryptionContext":{"a":"b"}}'
    request = api.encrypt_request(Secret(b"key"), "k")
    assert request.body == b'{"KeyId":"k","Plaintext":"a2V5"}'
    assert request.target == "TrentService.Encrypt"


def test_chinas_regions_have_hosts_of_their_own() -> None:
    request = api.get_secret_request("n", SecretVersion())
    assert request.host("cn-north-1") == "secretsmanager.cn-north-1.amazonaws.com.cn"
    assert request.host("us-gov-west-1") == "secretsmanager.us-gov-west-1.amazonaws.com"


def test_a_secret_is_its_text_or_else_its_bytes() -> None:
    def decode(text: str) -> bytes:
        return api.decode_secret(200, text.encode(), "").reveal()

    assert decode('{"SecretString":"the secret ✓"}') == "the secret ✓".encode()
    assert decode('{"SecretString":"","SecretBinary":"AAE="}') == b""
    assert decode('{"SecretBinary":"AAH/"}') == b"\0\1\xff"
    for wrong in ('{"Name":"n"}', '{"SecretBinary":"AA"}', '{"SecretBinary":7}', "[]", ""):
        with pytest.raises(PeerError) as caught:
            decode(wrong)
        assert "AA" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "com.amazonaws.kms#NotFoundException", NotFoundError),
        (400, "ResourceNotFoundException", NotFoundError),
        (400, "AccessDeniedException", DeniedError),
        (403, "Whatever", DeniedError),
        (400, "UnrecognizedClientException", UnauthenticatedError),
        (400, "ExpiredTokenException:http://internal.amazon.com/", UnauthenticatedError),
        (403, "InvalidSignatureException", UnauthenticatedError),
        (400, "InvalidCiphertextException", InvalidInputError),
        (400, "ThrottlingException", UnavailableError),
        (400, "LimitExceededException", UnavailableError),
        (500, "KMSInternalException", UnavailableError),
        (500, "Unknown", UnavailableError),
        (302, "Unknown", PeerError),
    ],
)
def test_a_refusal_is_the_error_that_it_means(
    status: int, kind: str, error: type[GuestError]
) -> None:
    for name in ("message", "Message"):
        body = json.dumps({"__type": kind, name: "the\nreason"}).encode()
        with pytest.raises(error) as caught:
            api.decode_plaintext(status, body, "req-1")
        code = kind.rpartition("#")[2].partition(":")[0]
        assert str(caught.value) == (
            f"status code: {status}, request id: req-1, error code: {code}, message: the reason"
        )


def test_a_refused_request_that_the_message_repeats_is_cut_off() -> None:
    message = (
        "The request signature we calculated does not match.\n\nThe Canonical String for this "
        "request should have been\n'POST\nx-amz-security-token:canary'"
    )
    body = json.dumps({"__type": "InvalidSignatureException", "message": message}).encode()
    with pytest.raises(UnauthenticatedError) as caught:
        api.decode_secret(400, body, "r")
    assert "canary" not in str(caught.value)
    assert str(caught.value).endswith("does not match.")


def test_an_answer_of_something_else_shows_its_status_and_no_success_its_body() -> None:
    with pytest.raises(PeerError, match="HTTP status 407: <p>proxy"):
        api.decode_plaintext(407, b"<p>proxy", "")
    with pytest.raises(UnavailableError, match="HTTP status 503"):
        api.decode_plaintext(503, b"", "")
    with pytest.raises(PeerError) as caught:
        api.decode_plaintext(200, b'{"Plaintext":"canary', "")
    assert "canary" not in " ".join(caught.value.causes())


@given(status=st.sampled_from([200, 400, 403, 500]), body=st.binary(max_size=60))
def test_any_answer_gives_a_value_or_an_error_of_ours(status: int, body: bytes) -> None:
    for decode in DECODERS:
        with suppress(GuestError):
            decode(status, body, "r")


def test_a_date_of_another_zone_is_signed_as_utc() -> None:
    given, request = decrypt_request()
    local = NOW.astimezone(datetime.now(UTC).astimezone().tzinfo)
    headers = dict(request.headers("us-east-1", credentials(given["access_key_id"]), local))
    assert headers["authorization"] == given["authorization"]
