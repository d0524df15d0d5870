"""Credentials files and challenges."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.registry.auth import AuthFile, parse_challenges, parse_token_reply


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def found(image: str, auths: object) -> bytes | None:
    file = AuthFile.parse(json.dumps({"auths": auths}).encode())
    credentials = file.find(ImageReference.parse(image))
    if credentials is None:
        return None
    assert credentials.basic is not None
    return credentials.basic.reveal()


LOOKUPS = [
    ("quay.io/a/b/c:x", "quay.io/a/b/c"),
    ("quay.io/a/b/c:x", "quay.io/a/b"),
    ("quay.io/a/b/c:x", "quay.io/a"),
    ("quay.io/a/b/c:x", "quay.io"),
    ("mysql", "docker.io/library/mysql"),
    ("mysql", "docker.io"),
    ("mysql", "https://index.docker.io/v1/"),
    ("mysql", "registry-1.docker.io"),
    ("q.io:5000/a", "http://q.io:5000/v2/"),
]


@pytest.mark.spec("image-pull", 15)
def test_credentials_are_looked_up_as_the_table_says() -> None:
    for image, key in LOOKUPS:
        assert found(image, {"other.io": auth("x:y"), key: auth("user:pass")}) == b"user:pass", key
    assert found("gcr.io/x/y", {"quay.io": auth("x:y")}) is None
    both = {"quay.io": auth("host:1"), "quay.io/a/b": auth("path:2"), "quay.io/a": auth("x:3")}
    assert found("quay.io/a/b/c", both) == b"path:2"
    assert found("quay.io/a", {"quay.io": auth("user:pass\n")}) == b"user:pass"
    assert found("quay.io/ab", {"quay.io/a": auth("x:y")}) is None


def test_an_empty_file_means_anonymous() -> None:
    assert found("quay.io/a", {}) is None


def test_user_and_password_may_stand_by_themselves() -> None:
    assert found("q.io/a", {"q.io": {"username": "u", "password": "p:q"}}) == b"u:p:q"


def test_tokens_of_other_kinds_are_kept_apart() -> None:
    file = AuthFile.parse(
        b'{"auths": {"q.io": {"identitytoken": "i"}, "r.io": {"registrytoken": "r"}}}'
    )
    identity = file.find(ImageReference.parse("q.io/a"))
    registry = file.find(ImageReference.parse("r.io/a"))
    assert identity is not None
    assert identity.identity_token is not None
    assert identity.identity_token.reveal() == b"i"
    assert registry is not None
    assert registry.registry_token is not None
    assert registry.registry_token.reveal() == b"r"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"auths": []}',
        b'{"auths": {"q.io": {}}}',
        b'{"auths": {"q.io": {"auth": 1}}}',
        b'{"auths": {"q.io": "x"}}',
        b'{"auths": {}, "auths": {}}',
        b'{"auths": {}, "credsStore": "desktop"}',
        b'{"auths": {}, "credHelpers": {"q.io": "x"}}',
        b"\xff",
    ],
)
def test_a_file_that_cannot_be_read_whole_is_refused(text: bytes) -> None:
    with pytest.raises(DecodeError):
        AuthFile.parse(text)


@pytest.mark.parametrize("value", ["###", "dXNlcg==", "/////w==", "dXNlcjpw YXNz"])
def test_a_bad_entry_is_refused_when_it_is_needed_and_never_quoted(value: str) -> None:
    with pytest.raises(DecodeError) as caught:
        found("q.io/a", {"q.io": {"auth": value}})
    assert value not in " ".join(caught.value.causes())
    assert found("r.io/a", {"q.io": {"auth": value}}) is None


CHALLENGES = [
    ("", []),
    ('Basic realm="test"', [("basic", {"realm": "test"})]),
    (
        'Bearer realm="https://a/t?x=1",service="s, \\"q\\"",scope="repository:a/b:pull"',
        [
            (
                "bearer",
                {
                    "realm": "https://a/t?x=1",
                    "service": 's, "q"',
                    "scope": "repository:a/b:pull",
                },
            )
        ],
    ),
    (
        "Basic realm=x, Bearer realm=https://a/t, Negotiate",
        [("basic", {"realm": "x"}), ("bearer", {"realm": "https://a/t"}), ("negotiate", {})],
    ),
    ("Negotiate YWJj==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
]


@pytest.mark.parametrize(("header", "expected"), CHALLENGES)
def test_challenges_are_read(header: str, expected: object) -> None:
    assert [(each.scheme, each.parameters) for each in parse_challenges(header)] == expected


@given(st.text(max_size=120))
def test_any_header_gives_challenges_or_a_decode_error(header: str) -> None:
    with suppress(DecodeError):
        parse_challenges(header)


@given(st.text(alphabet='ab =,"\\/', max_size=60))
def test_any_header_like_text_gives_challenges_or_a_decode_error(header: str) -> None:
    with suppress(DecodeError):
        parse_challenges(header)


@pytest.mark.parametrize(
    ("body", "token", "life"),
    [
        (b'{"token": "t"}', b"t", 60.0),
        (b'{"access_token": "a", "expires_in": 300}', b"a", 300.0),
        (b'{"token": "t", "access_token": "a", "expires_in": -1}', b"t", 60.0),
        (b'{"token": "t", "expires_in": 1e99}', b"t", 86400.0),
    ],
)
def test_a_token_reply_is_read(body: bytes, token: bytes, life: float) -> None:
    reply = parse_token_reply(body)
    assert (reply.token.reveal(), reply.life) == (token, life)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"token": ""}', b'{"token": "a\\nb"}', b"[]"])
def test_a_reply_without_a_token_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_token_reply(body)


@given(st.binary(max_size=80))
def test_any_bytes_give_a_file_and_a_token_or_decode_errors(data: bytes) -> None:
    with suppress(DecodeError):
        AuthFile.parse(data)
    with suppress(DecodeError):
        parse_token_reply(data)
