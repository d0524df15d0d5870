"""Settings, annotations and the credential file of AWS."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.kms.aws.settings import (
    SecretVersion,
    decode_credentials,
    parse_context,
    parse_region,
    parse_version,
)
from guest.errors import DecodeError

DOCUMENT = {"access_key_id": "AKID", "secret_access_key": "canary/+=", "session_token": None}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


def test_a_region_is_lower_case_words() -> None:
    for region in ("us-east-1", "cn-northwest-1", "us-gov-west-1"):
        assert parse_region({"region": region, "unknown": 1}) == region


@pytest.mark.parametrize(
    "region", [None, "", 1, "US-EAST-1", "a.b", "a/b", "a@b", "-a", "a-", "a--b", "a" * 41, "é"]
)
def test_what_could_lead_to_another_host_is_no_region(region: object) -> None:
    with pytest.raises(DecodeError, match="region"):
        parse_region({"region": region})
    with pytest.raises(DecodeError, match="region is missing"):
        parse_region({})


def test_an_encryption_context_is_an_object_of_texts() -> None:
    assert parse_context({}) == parse_context({"encryption_context": None}) == {}
    assert parse_context({"encryption_context": {"a": "b"}}) == {"a": "b"}
    many = {str(number): "" for number in range(65)}
    for wrong in ("a", ["a"], {"a": 1}, {"a": None}, many):
        with pytest.raises(DecodeError, match="encryption_context"):
            parse_context({"encryption_context": wrong})


def test_a_version_is_named_by_two_texts_that_may_be_empty() -> None:
    assert parse_version({}) == SecretVersion()
    named = {"version_id": "v", "version_stage": "s"}
    assert parse_version(named) == SecretVersion(version_id="v", stage="s")
    for wrong in (None, 1, "a\nb"):
        with pytest.raises(DecodeError, match="version_id"):
            parse_version({"version_id": wrong})


def test_the_file_has_a_key_and_perhaps_a_token() -> None:
    found = decode_credentials(json.dumps(DOCUMENT).encode())
    assert (found.key_id, found.secret.reveal(), found.token) == ("AKID", b"canary/+=", None)
    for token in ("", None):
        assert decode_credentials(json.dumps(DOCUMENT | {"session_token": token}).encode()) == found
    document = json.dumps(DOCUMENT | {"session_token": "t", "unknown": {}}).encode()
    token_found = decode_credentials(document).token
    assert token_found is not None
    assert token_found.reveal() == b"t"
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"access_key_id": ""}, "access_key_id"),
        ({"access_key_id": "a b"}, "access_key_id"),
        ({"access_key_id": 1}, "access_key_id"),
        ({"secret_access_key": ""}, "secret_access_key"),
        ({"secret_access_key": "canary\n"}, "secret_access_key"),
        ({"secret_access_key": ["canary"]}, "secret_access_key"),
        ({"session_token": "canary é"}, "session_token"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place_and_no_secret(
    change: dict[str, object], place: str
) -> None:
    with pytest.raises(DecodeError, match=place) as caught:
        decode_credentials(json.dumps(DOCUMENT | change).encode())
    assert "canary" not in " ".join(caught.value.causes())


def test_a_file_cut_at_any_byte_or_with_a_member_twice_is_refused_without_its_secret() -> None:
    whole = json.dumps(DOCUMENT).encode()
    twice = whole[:-1] + b',"secret_access_key":"canary"}'
    for data in (*(whole[:length] for length in range(len(whole))), twice, b" " * 70_000):
        with pytest.raises(DecodeError) as caught:
            decode_credentials(data)
        assert "canary" not in " ".join(caught.value.causes())


@given(st.dictionaries(st.sampled_from(["region", "encryption_context", "version_id"]), JSON))
def test_any_members_give_a_value_or_a_decode_error(members: dict[str, object]) -> None:
    for parse in (parse_region, parse_context, parse_version):
        with suppress(DecodeError):
            parse(members)
    with suppress(DecodeError):
        decode_credentials(json.dumps(members).encode())
