"""Requests to a KMS instance are the published ones; its answers are read strictly."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.aliyun import instance
from cdh.kms.aliyun.settings import SecretVersion
from guest.errors import (
    DeniedError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.protos import dkms_pb2
from guest.secret import Secret
from support.aliyun_world import KEY_ID, VECTORS, client_key

GIVEN = VECTORS["client_key"]
NOW = datetime.fromisoformat(GIVEN["now"])


@pytest.mark.spec("confidential-data-hub", 39)
def test_string_to_sign_signature_and_protobuf_are_the_published_ones() -> None:
    request = instance.decrypt_request(
        GIVEN["ciphertext"].encode(), GIVEN["key_id"], bytes.fromhex(GIVEN["iv"])
    )
    assert request.body.hex() == GIVEN["request"]
    key = client_key()
    assert key.key_id == KEY_ID
    signed = request.string_to_sign(key.key_id, NOW)
    assert signed.decode() == GIVEN["string_to_sign"]
    headers = request.headers(key.key_id, NOW, key.sign(signed))
    assert dict(headers) == {
        "Accept": "application/x-protobuf",
        "Content-Type": "application/x-protobuf",
        "Date": GIVEN["date"],
        "x-kms-apiversion": "dkms-gcs-0.2",
        "x-kms-apiname": "Decrypt",
        "x-kms-signaturemethod": "RSA_PKCS1_SHA_256",
        "x-kms-acccesskeyid": KEY_ID,
        "Content-Sha256": GIVEN["digest"],
        "Authorization": GIVEN["authorization"],
    }
    secret = instance.get_secret_request(GIVEN["get_secret"]["name"], SecretVersion())
    assert secret.body.hex() == GIVEN["get_secret"]["request"]
    assert GIVEN["get_secret"]["digest"] in secret.string_to_sign("x", NOW).decode()
    plaintext = Secret(bytes.fromhex(GIVEN["encrypt"]["plaintext"]))
    encrypt = instance.encrypt_request(plaintext, GIVEN["key_id"])
    assert encrypt.body.hex() == GIVEN["encrypt"]["request"]
    assert instance.host("kst-1") == "kst-1.cryptoservice.kms.aliyuncs.com"


def test_a_version_is_sent_where_one_is_meant() -> None:
    version = SecretVersion(stage="ACSPrevious", version_id="v1")
    sent = dkms_pb2.GetSecretValueRequest.FromString(instance.get_secret_request("n", version).body)
    assert (sent.VersionStage, sent.VersionId) == ("ACSPrevious", "v1")


def test_the_date_is_that_of_greenwich() -> None:
    east = NOW.astimezone(timezone(timedelta(hours=13)))
    assert instance.http_date(east) == GIVEN["date"]
    assert instance.http_date(datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)) == (
        "Sat, 02 Jan 2027 03:04:05 GMT"
    )


@pytest.mark.spec("confidential-data-hub", 41)
def test_the_error_body_of_an_instance_is_rendered() -> None:
    body = bytes.fromhex(GIVEN["error"]["encoded"])
    status, code, message, request_id = GIVEN["error"]["fields"]
    with pytest.raises(NotFoundError) as caught:
        instance.decode_plaintext(403, body)
    assert str(caught.value) == (
        f"status code: {status}, request id: {request_id}, error code: {code}, message: {message}"
    )


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "Forbidden.NoPermission", DeniedError),
        (404, "x", NotFoundError),
        (401, "x", UnauthenticatedError),
        (400, "InvalidParameter", InvalidInputError),
        (400, "Rejected.Throttling", UnavailableError),
        (503, "ServiceUnavailableTemporary", UnavailableError),
        (500, "InternalFailure", UnavailableError),
        (429, "x", UnavailableError),
        (500, "x", PeerError),
        (302, "x", PeerError),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(status: int, code: str, kind: type[GuestError]) -> None:
    body = dkms_pb2.Error(ErrorCode=code, ErrorMessage="a\nb\x1b[0m" + "x" * 500)
    with pytest.raises(kind) as caught:
        instance.decode_secret(status, body.SerializeToString())
    assert f"status code: {status}" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_proxys_error_page_is_told_with_status_and_beginning() -> None:
    with pytest.raises(PeerError, match=r"HTTP status 407: <html>Proxy Authentication"):
        instance.decode_secret(407, b"<html>Proxy\nAuthentication\xff Required</html>")
    with pytest.raises(UnavailableError, match="HTTP status 502: Bad"):
        instance.decode_secret(502, b"Bad Gateway")
    with pytest.raises(PeerError, match="HTTP status 500"):
        instance.decode_secret(500, b"")


def test_an_answer_without_what_was_asked_for_is_none() -> None:
    for decode in (instance.decode_plaintext, instance.decode_secret, instance.decode_ciphertext):
        for body in (b"", dkms_pb2.DecryptResponse(PaddingMode="r").SerializeToString()):
            with pytest.raises(PeerError):
                decode(200, body)


def test_an_answer_that_is_broken_is_told_without_its_bytes() -> None:
    body = dkms_pb2.DecryptResponse(Plaintext=b"canary-plaintext").SerializeToString()
    for cut in range(1, len(body)):
        with pytest.raises(PeerError) as caught:
            instance.decode_plaintext(200, body[:cut])
        assert "canary" not in " ".join(caught.value.causes())


@given(st.binary(max_size=200), st.sampled_from([200, 204, 400, 403, 500, 503]))
def test_any_answer_gives_a_value_or_an_error(data: bytes, status: int) -> None:
    for decode in (instance.decode_plaintext, instance.decode_secret, instance.decode_ciphertext):
        with suppress(GuestError):
            assert decode(status, data)


@given(st.binary(min_size=1, max_size=100), st.binary(min_size=1, max_size=20))
def test_what_an_instance_encodes_is_what_is_decoded(data: bytes, iv: bytes) -> None:
    answer = dkms_pb2.DecryptResponse(KeyId="k", Plaintext=data, RequestId="r")
    assert instance.decode_plaintext(200, answer.SerializeToString()).reveal() == data
    sealed = dkms_pb2.EncryptResponse(CiphertextBlob=data, Iv=iv)
    assert instance.decode_ciphertext(200, sealed.SerializeToString()) == (data, iv)
