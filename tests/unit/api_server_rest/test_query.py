"""Targets, queries, runtime data and events."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_server_rest.query import Event, Target, decode_runtime_data, parse_query
from guest.errors import DecodeError


@pytest.mark.parametrize(
    ("text", "path", "query"),
    [
        ("/", "/", ""),
        ("*", "*", ""),
        ("/a%20b/%2e%2e/c?x=%41", "/a%20b/%2e%2e/c", "x=%41"),
        ("//a/../b?c?d#e", "//a/../b", "c?d"),
        ("/a#b?c", "/a", ""),
        ("http://evil/info?x=1", "/info", "x=1"),
        ("http://evil", "/", ""),
        ("https://u@h:1//x", "//x", ""),
    ],
)
def test_a_target_is_taken_apart_and_not_changed(text: str, path: str, query: str) -> None:
    assert Target.parse(text) == Target(path, query)


@pytest.mark.parametrize("text", ["", "info", "://h/x", "http:///x", "a b://h", "?x", "h:80"])
def test_a_target_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        Target.parse(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("a=1&a=2", {"a": "2"}),
        ("a=b+c%2B&&d", {"a": "b c+", "d": ""}),
        ("a=%ff", {"a": "\ufffd"}),
        ("a=%00%ff+b", {"a": "\0\ufffd b"}),
        ("a=%zz%4", {"a": "%zz%4"}),
        ("a=b=c", {"a": "b=c"}),
        ("=x", {"": "x"}),
        ("%61=1", {"a": "1"}),
        ("a=é", {"a": "é"}),
        ("a=1;b=2", {"a": "1;b=2"}),
    ],
)
def test_a_query_is_read_as_a_form(text: str, fields: dict[str, str]) -> None:
    assert parse_query(text) == fields


@pytest.mark.parametrize(
    ("value", "encoding", "data"),
    [
        ("", None, b""),
        ("xxxx", None, b"xxxx"),
        ("a\0\ufffd b", None, b"a\0\xef\xbf\xbd b"),
        ("eHh4eA", "base64", b"xxxx"),
        ("-_8", "base64", b"\xfb\xff"),
        ("", "base64", b""),
    ],
)
def test_runtime_data_is_decoded(value: str, encoding: str | None, data: bytes) -> None:
    assert decode_runtime_data(value, encoding) == data


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("eHh4eA==", "base64"),
        ("+/8", "base64"),
        ("-_9", "base64"),
        ("e Hh", "base64"),
        ("e", "base64"),
        ("00", "hex"),
        ("xxxx", ""),
        ("xxxx", "BASE64"),
    ],
)
def test_runtime_data_that_is_not_in_its_encoding_is_refused(value: str, encoding: str) -> None:
    with pytest.raises(DecodeError):
        decode_runtime_data(value, encoding)


def test_an_event_skips_unknown_members() -> None:
    body = b'{"domain":"d","operation":"o","content":"c","RegisterIndex":3}'
    assert Event.decode(body) == Event("d", "o", "c")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not-json",
        b"[]",
        b'["d","o","c"]',
        b'{"domain":"d","operation":"o"}',
        b'{"domain":1,"operation":"o","content":"c"}',
        b'{"domain":"d","domain":"d","operation":"o","content":"c"}',
        b'{"domain":"d","operation":"o","content":"\xff"}',
        b'{"domain":"github.com/confidential-containers","operation":"o","content":"c"}',
    ],
)
def test_what_is_no_event_of_a_container_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        Event.decode(body)


@given(st.text(max_size=60))
def test_any_text_gives_fields(text: str) -> None:
    with suppress(UnicodeEncodeError):
        assert len(parse_query(text)) <= text.count("&") + 1


@given(st.dictionaries(st.text("ab", min_size=1), st.text("cd +%&=é\0", max_size=8), max_size=4))
def test_an_encoded_query_gives_its_fields_again(fields: dict[str, str]) -> None:
    from urllib.parse import urlencode

    assert parse_query(urlencode(fields)) == fields


@given(st.binary(max_size=100))
def test_any_body_gives_an_event_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        Event.decode(data)


@given(st.tuples(*[st.text(max_size=10)] * 3))
def test_an_encoded_event_decodes(members: tuple[str, str, str]) -> None:
    body = json.dumps(dict(zip(("domain", "operation", "content"), members, strict=True)))
    with suppress(DecodeError):  # a lone surrogate has no UTF-8
        assert Event.decode(body.encode()) == Event(*members)
