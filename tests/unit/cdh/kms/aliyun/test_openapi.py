"""Requests to the shared gateways are the published ones; their answers are read strictly."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.aliyun import openapi
from cdh.kms.aliyun.documents import decode_sts_token
from cdh.kms.aliyun.openapi import AccessKey
from cdh.kms.aliyun.settings import SecretVersion
from guest.errors import (
    DeniedError,
    GuestError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.secret import Secret
from guest_simulator.kms.aliyun.openapi import string_to_sign
from support.aliyun_world import VECTORS

GIVEN = VECTORS["sts_token"]
NOW = datetime.fromisoformat(GIVEN["now"])
KEY = AccessKey(key_id="k", secret=Secret(b"s"), token=Secret(b"canary-token"))


@pytest.mark.spec("confidential-data-hub", 42)
def test_signature_and_url_are_the_published_ones_also_from_a_file_with_a_line_end() -> None:
    assert GIVEN["file"].endswith("\n")
    request = openapi.get_secret_request(
        GIVEN["region"],
        GIVEN["name"],
        SecretVersion(),
        key=decode_sts_token(GIVEN["file"].encode()),
        nonce=GIVEN["nonce"],
        now=NOW,
    )
    assert request.url.reveal().decode() == GIVEN["url"]
    assert request.headers == (
        ("x-acs-version", "2016-01-20"),
        ("x-acs-action", "GetSecretValue"),
    )
    parameters = dict(parse_qsl(urlsplit(GIVEN["url"]).query, keep_blank_values=True))
    assert parameters.pop("Signature") == GIVEN["signature"]
    assert openapi.string_to_sign(parameters).decode() == GIVEN["string_to_sign"]
    assert openapi.sign(parameters, Secret(b"testsecret")) == GIVEN["signature"]


@given(st.dictionaries(st.text("aZ09-_.~ +/&=%é✓", min_size=1), st.text("aZ09-_.~ +/&=%é✓")))
def test_the_string_to_sign_is_that_of_an_independent_encoder(
    parameters: dict[str, str],
) -> None:
    parameters.pop("Signature", None)
    assert openapi.string_to_sign(parameters).decode() == string_to_sign(parameters)


def test_a_url_is_never_printed() -> None:
    request = openapi.get_secret_request("r", "n", SecretVersion(), key=KEY, nonce="n", now=NOW)
    assert "canary" not in repr((request, KEY))


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("cn-beijing", "sts.cn-beijing.aliyuncs.com"),
        ("cn-hangzhou-finance", "sts.aliyuncs.com"),
        ("cn-shenzhen-finance-1", "sts.aliyuncs.com"),
    ],
)
def test_a_role_is_assumed_at_the_service_of_its_region(region: str, host: str) -> None:
    request = openapi.assume_role_request(
        region,
        id_token=Secret(b"e.y.J"),
        provider_arn="acs:ram::1:oidc-provider/p",
        role_arn="acs:ram::1:role/r",
        session_name="zero-trust-session",
        now=NOW,
    )
    url = urlsplit(request.url.reveal().decode())
    assert (url.scheme, url.netloc, url.path) == ("https", host, "/")
    assert parse_qs(url.query) == {
        "Action": ["AssumeRoleWithOIDC"],
        "Format": ["json"],
        "RoleArn": ["acs:ram::1:role/r"],
        "OIDCProviderArn": ["acs:ram::1:oidc-provider/p"],
        "OIDCToken": ["e.y.J"],
        "RoleSessionName": ["zero-trust-session"],
        "Timestamp": ["2026-08-20T12:00:00Z"],
    }
    assert dict(request.headers) == {
        "x-acs-version": "2015-04-01",
        "x-acs-action": "AssumeRoleWithOIDC",
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }


def test_a_secret_is_the_bytes_of_its_text() -> None:
    body = json.dumps({"SecretData": "é✓", "SecretDataType": "binary", "More": [1]}).encode()
    assert openapi.decode_secret(200, body).reveal() == "é✓".encode()
    with pytest.raises(PeerError) as caught:
        openapi.decode_secret(200, b'{"RequestId":"r"}')
    assert str(caught.value) == "get 'SecretData' from get_secret response failed."


def test_a_refusal_is_rendered_and_what_it_repeats_of_the_request_is_cut_off() -> None:
    quoted = string_to_sign({"SecurityToken": "canary-token"})
    for message in (
        f"Specified signature is not matched. server string to sign is:{quoted}",
        f"x server StringToSign is:{quoted} string to sign: {quoted}",
    ):
        body = json.dumps(
            {
                "HttpStatus": 400,
                "RequestId": "req",
                "Code": "SignatureDoesNotMatch",
                "Message": message,
            }
        ).encode()
        with pytest.raises(UnauthenticatedError) as caught:
            openapi.decode_secret(400, body)
        assert "canary" not in str(caught.value)
        assert str(caught.value).startswith(
            "status code: 400, request id: req, error code: SignatureDoesNotMatch, message: "
        )


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "Forbidden.ResourceNotFound", NotFoundError),
        (403, "Forbidden.NoPermission", DeniedError),
        (400, "InvalidSecurityToken.Expired", UnauthenticatedError),
        (404, "InvalidAccessKeyId.NotFound", UnauthenticatedError),
        (400, "Throttling.User", UnavailableError),
        (500, "InternalFailure", UnavailableError),
        (500, "x", PeerError),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(status: int, code: str, kind: type[GuestError]) -> None:
    with pytest.raises(kind):
        openapi.decode_secret(status, json.dumps({"Code": code}).encode())


def test_what_is_no_answer_is_told_with_its_status_alone_when_it_may_hold_a_secret() -> None:
    for body in (b'{"SecretData": "canary"', b'{"SecretData": ["canary"]}', b"canary"):
        with pytest.raises(PeerError) as caught:
            openapi.decode_secret(200, body)
        assert "canary" not in " ".join(caught.value.causes())
    with pytest.raises(PeerError, match="HTTP status 400: <html>"):
        openapi.decode_secret(400, b"<html>")


def credentials(**members: object) -> dict[str, object]:
    base: dict[str, object] = {
        "AccessKeyId": "STS.1",
        "AccessKeySecret": "s",
        "SecurityToken": "t",
    }
    return base | members


def test_an_assumed_roles_key_is_all_that_is_needed_of_the_answer() -> None:
    expires = "2026-08-20T13:00:00Z"
    body = json.dumps({"Credentials": credentials(Expiration=expires)}).encode()
    key = openapi.decode_assumed_role(200, body)
    assert (key.key_id, key.secret.reveal(), key.token.reveal()) == ("STS.1", b"s", b"t")
    assert key.expires == datetime(2026, 8, 20, 13, tzinfo=UTC)
    with pytest.raises(DeniedError):
        openapi.decode_assumed_role(403, b'{"Code":"NoPermission"}')
    with pytest.raises(PeerError):
        openapi.decode_assumed_role(200, b"{}")


def test_a_roles_key_of_the_metadata_server_must_be_a_success_and_ascii() -> None:
    assert openapi.decode_role_key(json.dumps(credentials(Code="Success")).encode())
    odd = openapi.decode_role_key(json.dumps(credentials(Expiration="tomorrow")).encode())
    assert odd.expires is None
    for wrong in (
        credentials(Code="Failed"),
        credentials(AccessKeyId=""),
        credentials(SecurityToken="é"),
        credentials(AccessKeySecret="a\nb"),
        credentials(SecurityToken=1),
    ):
        with pytest.raises(PeerError):
            openapi.decode_role_key(json.dumps(wrong).encode())


@given(st.binary(max_size=200), st.sampled_from([200, 400, 403, 500, 503]))
def test_any_answer_gives_a_value_or_an_error(data: bytes, status: int) -> None:
    for decode in (openapi.decode_secret, openapi.decode_assumed_role):
        with suppress(GuestError):
            assert decode(status, data) is not None
    with suppress(GuestError):
        assert openapi.decode_role_key(data)


def test_an_answer_cut_anywhere_gives_an_error() -> None:
    body = json.dumps({"Credentials": credentials()}).encode()
    for cut in range(len(body)):
        with pytest.raises(PeerError):
            openapi.decode_assumed_role(200, body[:cut])
        with pytest.raises(PeerError):
            openapi.decode_role_key(body[:cut])
