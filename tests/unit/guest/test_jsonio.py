"""guest/jsonio.py: strict JSON and its canonical form."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import jsonio
from guest.errors import DecodeError

SCALARS = st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=10)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


class _Thing(msgspec.Struct):
    name: str


@given(VALUES)
def test_what_json_writes_is_accepted_in_any_layout(value: object) -> None:
    for layout in ({"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}):
        jsonio.check(json.dumps(value, **layout).encode("utf-8", "surrogatepass"))


@given(VALUES)
def test_the_canonical_form_reads_back_and_is_a_fixed_point(value: object) -> None:
    encoded = jsonio.canonical(value)
    assert json.loads(encoded) == value
    assert jsonio.canonical(json.loads(encoded)) == encoded


@given(st.binary(max_size=40) | st.text(alphabet='{}[]:," \\ab1e-+.ntf', max_size=30))
def test_any_bytes_are_json_or_a_decode_error(data: bytes | str) -> None:
    encoded = data.encode() if isinstance(data, str) else data
    with suppress(DecodeError):
        jsonio.check(encoded)
        json.loads(encoded)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'[{"b":{"a":1,"a":1}}]',
        b"",
        b"{",
        b"nul",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1 2",
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\n"',
        b"[1,]",
        b"01",
        b"{'a':1}",
    ],
)
def test_what_is_not_one_strict_document_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        jsonio.check(data)


def test_depth_is_limited_and_brackets_in_strings_do_not_count() -> None:
    jsonio.check(b"[[1]]", max_depth=2)
    jsonio.check(rb'["[[[[{{{{\"[[["]', max_depth=1)
    jsonio.check(b"1", max_depth=0)
    with pytest.raises(DecodeError, match="nested deeper than 1"):
        jsonio.check(b'[{"a":1}]', max_depth=1)


def test_a_hundred_thousand_brackets_are_refused_without_recursion() -> None:
    with pytest.raises(DecodeError):
        jsonio.check(b"[" * 100_000, max_depth=200_000)


def test_length_is_limited() -> None:
    jsonio.check(b"12345", max_bytes=5)
    with pytest.raises(DecodeError, match="has 6 bytes"):
        jsonio.check(b"123456", max_bytes=5)


def test_a_number_of_a_million_digits_is_not_computed() -> None:
    jsonio.check(b"9" * 1_000_000)


def test_decode_gives_the_type_and_skips_unknown_members() -> None:
    assert jsonio.decode(b'{"name":"x","more":[1]}', _Thing).name == "x"


@pytest.mark.parametrize("data", [b'{"name":1}', b"[]", b"{}", b'{"name":"a","name":"b"}'])
def test_decode_refuses_what_does_not_fit(data: bytes) -> None:
    with pytest.raises(DecodeError):
        jsonio.decode(data, _Thing)


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    value = {"€": "\x0f\n/", "\r": [1.0, 333333333.33333329, 1e30, 4.5], "1": None}
    expected = '{"\\r":[1,333333333.3333333,1e+30,4.5],"1":null,"€":"\\u000f\\n/"}'
    assert jsonio.canonical(value) == expected.encode()


@pytest.mark.parametrize("value", ["\ud800", 2**60, float("nan"), {1: 2}, b"x"])
def test_a_value_without_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        jsonio.canonical(value)
