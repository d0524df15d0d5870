"""Requests to an eHSM-KMS are the published ones; its answers are read strictly."""

import json
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.ehsm import protocol
from cdh.kms.ehsm.settings import EhsmCredentials
from guest.errors import (
    DecodeError,
    DeniedError,
    GuestError,
    InvalidInputError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from guest.secret import Secret
from guest_simulator.kms.ehsm.server import flatten
from support.ehsm_world import APP_ID, KEY_ID, VECTORS

CREDENTIALS = EhsmCredentials(app_id=APP_ID, api_key=Secret(VECTORS["api_key"].encode()))
NAMES = st.text("aZ09_", min_size=1, max_size=6)


@pytest.mark.spec("confidential-data-hub", 45)
def test_a_decryption_is_signed_as_published() -> None:
    request = protocol.decrypt_request(VECTORS["ciphertext"].encode(), KEY_ID)
    assert request.url("https://h:9000") == "https://h:9000/ehsm?Action=Decrypt"
    body = json.loads(request.body(CREDENTIALS, VECTORS["nonce"], VECTORS["timestamp"]))
    assert body == {
        "appid": APP_ID,
        "nonce": VECTORS["nonce"],
        "payload": {"ciphertext": VECTORS["ciphertext"], "keyid": KEY_ID},
        "timestamp": str(VECTORS["timestamp"]),
        "sign": VECTORS["sign"],
    }
    del body["sign"]
    assert protocol.string_to_sign(body) == VECTORS["string_to_sign"]
    assert protocol.sign(body, Secret(VECTORS["api_key"].encode())) == VECTORS["sign"]


@given(st.dictionaries(NAMES, st.text(max_size=4) | st.dictionaries(NAMES, st.text(max_size=4))))
def test_the_string_to_sign_knows_no_order_and_is_the_services_own(
    members: dict[str, object],
) -> None:
    shuffled = list(members.items())
    random.Random(1).shuffle(shuffled)
    assert protocol.string_to_sign(dict(shuffled)) == flatten(members)


def test_an_encryption_sends_the_plaintext_as_base64() -> None:
    request = protocol.encrypt_request(Secret(b"key"), KEY_ID)
    assert request.url("https://h") == "https://h/ehsm?Action=Encrypt"
    assert request.payload == {"keyid": KEY_ID, "plaintext": "a2V5"}


@pytest.mark.parametrize("wrong", [b"\xff", b"a\nb", "é".encode(), b"\0"])
def test_a_wrapped_key_that_is_no_text_of_the_service_is_refused(wrong: bytes) -> None:
    with pytest.raises(DecodeError, match="none of this service"):
        protocol.decrypt_request(wrong, KEY_ID)


def answer(code: int, **result: object) -> bytes:
    return json.dumps({"code": code, "message": "the\nreason", "result": result}).encode()


def test_answers_are_read_strictly() -> None:
    assert protocol.decode_plaintext(200, answer(200, plaintext="a2V5")).reveal() == b"key"
    assert protocol.decode_ciphertext(200, answer(200, ciphertext="abc==")) == b"abc=="
    for wrong in (
        answer(200),
        answer(200, plaintext="a2V", ciphertext="\n"),
        answer(200, plaintext=1, ciphertext=""),
        b'{"code":200}',
        b'{"code":200,"result":[]}',
        b"{}",
        b"",
    ):
        for decode in (protocol.decode_plaintext, protocol.decode_ciphertext):
            with pytest.raises(PeerError) as caught:
                decode(200, wrong)
            assert "a2V" not in " ".join(caught.value.causes())


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (200, 400, InvalidInputError),
        (200, 401, UnauthenticatedError),
        (200, 403, DeniedError),
        (200, 404, NotFoundError),
        (200, 500, PeerError),
        (200, 503, UnavailableError),
        (401, 200, UnauthenticatedError),
        (503, 200, UnavailableError),
        (302, 200, PeerError),
    ],
)
def test_a_refusal_is_the_error_that_it_means(
    status: int, code: int, error: type[GuestError]
) -> None:
    with pytest.raises(error) as caught:
        protocol.decode_plaintext(status, answer(code))
    text = f"status code: {status}, error code: {code}, message: the reason"
    assert str(caught.value) == text


@given(status=st.sampled_from([200, 400, 403, 500]), body=st.binary(max_size=60))
def test_any_answer_gives_a_value_or_an_error_of_ours(status: int, body: bytes) -> None:
    for decode in (protocol.decode_plaintext, protocol.decode_ciphertext):
        with suppress(GuestError):
            decode(status, body)
