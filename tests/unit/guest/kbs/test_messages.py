"""guest/kbs/messages.py and guest/kbs/token.py: bodies, byte by byte."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.kbs import messages
from guest.kbs.token import TokenTimes
from guest.secret import Secret
from guest.tee import Tee


def _challenge(extra: object) -> messages.Challenge:
    return messages.decode_challenge(json.dumps({"nonce": "n", "extra-params": extra}).encode())


@pytest.mark.spec("kbs-protocol", 1)
def test_the_auth_body_has_exactly_its_three_members() -> None:
    expected = (
        b'{"version":"0.4.0","tee":"sample","extra-params":'
        b'{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}'
    )
    assert messages.encode_request(Tee.SAMPLE) == expected


@pytest.mark.spec("kbs-protocol", 3)
def test_the_hash_is_sha384_unless_the_kbs_selects_one() -> None:
    unselected: tuple[object, ...] = ("", {}, None, [], {"other": 1}, 7)
    for extra in unselected:
        assert _challenge(extra).hash_algorithm() is HashAlgorithm.SHA384
    for name in ("SHA512", "sha512"):
        selected = _challenge({"selected-hash-algorithm": name})
        assert selected.hash_algorithm() is HashAlgorithm.SHA512
    assert messages.decode_challenge(b'{"nonce":"n"}').hash_algorithm() is HashAlgorithm.SHA384


@pytest.mark.spec("kbs-protocol", 4)
@pytest.mark.parametrize(
    ("selected", "text"),
    [
        ("", "invalid hash algorithm: "),
        ("foo", "invalid hash algorithm: foo"),
        (1, "unexpected JSON data type: expected string, got 1"),
        ([], "unexpected JSON data type: expected string, got []"),
        (True, "unexpected JSON data type: expected string, got true"),
        (None, "unexpected JSON data type: expected string, got null"),
    ],
)
def test_a_hash_that_does_not_exist_is_refused_with_its_text(selected: object, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        _challenge({"selected-hash-algorithm": selected}).hash_algorithm()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"nonce":1}', b'{"nonce":"a","nonce":"b"}', b"x" * 100_000]
)
def test_what_is_no_challenge_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        messages.decode_challenge(body)


@pytest.mark.spec("kbs-protocol", 8)
def test_init_data_is_null_or_the_document_unchanged() -> None:
    document = "version = \"0.1.0\"\n[data]\n\"a\" = '''\n\\ \" ä\t\r\n'''\n"
    for given_data in (None, document):
        body = messages.encode_attestation(
            nonce="n",
            jwk={"kty": "EC"},
            primary=b'{"svn":"1"}',
            additional="",
            init_data=given_data,
        )
        expected = None if given_data is None else {"format": "toml", "body": document}
        assert json.loads(body)["init-data"] == expected
    assert body.startswith(b'{"init-data":{"format":"toml","body":"')


def test_the_attest_body_embeds_the_primary_evidence_as_it_is() -> None:
    body = messages.encode_attestation(
        nonce="n", jwk={"kty": "EC"}, primary=b'{"z":1,"a":[]}', additional="{}", init_data=None
    )
    assert body == (
        b'{"init-data":null,"runtime-data":{"nonce":"n","tee-pubkey":{"kty":"EC"}},'
        b'"tee-evidence":{"primary_evidence":{"z":1,"a":[]},"additional_evidence":"{}"}}'
    )


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä", "a\x7f"])
def test_a_token_that_cannot_stand_in_a_header_is_refused(token: str) -> None:
    with pytest.raises(DecodeError):
        messages.decode_token_answer(json.dumps({"token": token}).encode())


def test_the_token_answer_of_aa_has_two_members_in_order_and_reads_back() -> None:
    encoded = messages.encode_token_pair(Secret(b"a.b.c"), Secret(b"PEM\n"))
    assert encoded.reveal() == b'{"token":"a.b.c","tee_keypair":"PEM\\n"}'
    assert messages.decode_token_pair(encoded.reveal()) == (Secret(b"a.b.c"), Secret(b"PEM\n"))
    with pytest.raises(DecodeError):
        messages.decode_token_pair(b'{"token":"a.b.c"}')


def test_a_refusal_is_read_and_anything_else_is_none() -> None:
    body = b'{"type":"https://x/errors/PolicyDeny","detail":"no"}'
    found = messages.find_error_information(body)
    assert found is not None
    assert (found.kind, found.detail) == ("PolicyDeny", "no")
    for other in (b"", b"<html>", b"{}", b'{"type":1,"detail":"x"}', b'{"type":"a"}'):
        assert messages.find_error_information(other) is None


def _token(payload: bytes) -> Secret:
    from guest.wire import encode_base64url

    return Secret(b"e30." + encode_base64url(payload).encode() + b".sig")


def test_published_tokens_tell_their_times(vectors: Path) -> None:
    for vector in json.loads((vectors / "kbs/tokens.json").read_text())["vectors"]:
        times = TokenTimes.decode(Secret(vector["token"].encode()))
        assert (times.exp, times.iat, times.nbf) == (vector["exp"], vector["iat"], None)


def test_a_token_is_valid_between_nbf_and_exp_without_leeway() -> None:
    times = TokenTimes.decode(_token(b'{"exp":200,"nbf":100}'))
    assert [times.is_valid_at(now) for now in (99.9, 100, 150, 200, 200.1)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert TokenTimes.decode(_token(b"{}")).is_valid_at(1e12)


def test_a_life_is_counted_from_iat_where_there_is_one() -> None:
    assert TokenTimes(exp=400, iat=100).life(10_000) == 300
    assert TokenTimes(exp=400).life(150) == 250
    assert TokenTimes(exp=400).life(500) == 0
    assert TokenTimes(exp=100, iat=400).life(0) == 0
    assert TokenTimes(iat=1).life(0) is None


@pytest.mark.parametrize(
    "token", [b"", b"abc", b"a.!.c", b"a.bm8.c", b"a.W10.c", b"a.eyJleHAiOiJ4In0.c", b"a.e30=.c"]
)
def test_what_is_no_token_is_refused(token: bytes) -> None:
    with pytest.raises(DecodeError, match="illegal token format"):
        TokenTimes.decode(Secret(token))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    for read in (
        messages.decode_challenge,
        messages.decode_token_answer,
        messages.decode_token_pair,
        lambda given_bytes: TokenTimes.decode(Secret(given_bytes)),
    ):
        with suppress(DecodeError):
            read(data)
    messages.find_error_information(data)
