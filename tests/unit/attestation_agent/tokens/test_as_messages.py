"""What an attestation service takes and gives, byte by byte."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation_agent.tokens import as_messages
from guest import wire
from guest.errors import DecodeError
from guest.tee import Tee

EVIDENCE = b'{"svn":"1","report_data":""}'
PLAIN = (
    b'{"verification_requests":[{"tee":"sample",'
    b'"evidence":"eyJzdm4iOiIxIiwicmVwb3J0X2RhdGEiOiIifQ"}],"policy_ids":[]}'
)


def test_a_plain_request_is_the_original_byte_for_byte() -> None:
    assert as_messages.encode_request(Tee.SAMPLE, EVIDENCE, ()) == PLAIN
    named = as_messages.encode_request(Tee.SAMPLE, EVIDENCE, ("a", "b"))
    assert named == PLAIN.replace(b"[]", b'["a","b"]')


@given(st.text(min_size=1), st.none() | st.text(), st.binary())
def test_a_bound_request_carries_nonce_init_data_and_evidence_as_they_are(
    nonce: str, init_data: str | None, evidence: bytes
) -> None:
    body = as_messages.encode_bound_request(Tee.TDX, evidence, (), nonce=nonce, init_data=init_data)
    (individual,) = json.loads(body)["verification_requests"]
    assert individual["runtime_data"] == {"structured": {"nonce": nonce}}
    assert individual["runtime_data_hash_algorithm"] == "sha384"
    assert wire.decode_base64url(individual["evidence"]) == evidence
    if init_data is None:
        assert "init_data" not in individual
    else:
        assert individual["init_data"] == {"init_data_toml": init_data}


def test_the_report_data_is_the_digest_of_the_canonical_runtime_data() -> None:
    expected = hashlib.sha384(b'{"nonce":"bm9uY2U="}').digest()
    assert as_messages.report_data("bm9uY2U=") == expected


def test_a_challenge_is_asked_for_by_tee() -> None:
    assert as_messages.encode_challenge_request(Tee.TDX) == b'{"tee":"tdx","tee_params":""}'


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_nonce_and_a_token_unchanged_or_an_error(body: bytes) -> None:
    is_text = bool(body) and body.decode("utf-8", "ignore").encode() == body
    try:
        assert as_messages.decode_token(body).reveal() == body
        assert as_messages.decode_nonce(body).encode() == body
        assert is_text
    except DecodeError:
        assert not is_text


@pytest.mark.parametrize(
    ("decode", "limit"),
    [
        (as_messages.decode_nonce, as_messages.MAX_NONCE_LENGTH),
        (as_messages.decode_token, as_messages.MAX_TOKEN_LENGTH),
    ],
)
def test_what_is_longer_than_its_limit_is_refused(decode: object, limit: int) -> None:
    assert callable(decode)
    decode(b"x" * limit)
    with pytest.raises(DecodeError, match=f"expected 1 to {limit}"):
        decode(b"x" * (limit + 1))


@given(st.binary())
def test_any_refusal_becomes_one_short_printable_line(body: bytes) -> None:
    text = as_messages.refusal(500, body)
    assert text.isprintable()
    assert text.startswith('Remote Attestation Failed, AS Response: "')
    assert text.endswith('" (status 500)')
    assert len(text) < as_messages.MAX_TEXT_LENGTH + 100
