"""The wrap messages of the key provider protocol."""

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.keyprovider.wrap_input import (
    IncompleteInputError,
    OptionsEncodingError,
    decode_wrap_input,
    encode_wrap_output,
)
from guest.errors import DecodeError


@pytest.fixture
def vector(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "keyprovider" / "wrap.json").read_text())
    return loaded


def message(ec: object, optsdata: object = "e30=", **members: object) -> bytes:
    body = {"op": "keywrap", "keywrapparams": {"ec": ec, "optsdata": optsdata}}
    return json.dumps(body | members).encode()


def parameters(*texts: str | None) -> dict[str, object]:
    encoded = [None if text is None else base64.b64encode(text.encode()).decode() for text in texts]
    return {"Parameters": {"attestation-agent": encoded}}


def test_what_skopeo_sends_is_read(vector: dict[str, Any]) -> None:
    request = decode_wrap_input(vector["wrap_input"].encode())
    assert request.private_options.reveal().decode() == vector["private_options"]
    assert request.parameters == "keypath=/key::keyid=kbs:///default/key/1::algorithm=A256GCM"


@pytest.mark.spec("ocicrypt", 21)
@pytest.mark.parametrize(
    "extra",
    [
        {"DecryptConfig": {"Parameters": {"privkeys": ["AA=="], "privkeys-passwords": [None]}}},
        {"DecryptConfig": {"Parameters": None}},
        {"DecryptConfig": None},
        {},
    ],
)
def test_the_nulls_of_go_are_taken_for_empty(extra: dict[str, object]) -> None:
    assert decode_wrap_input(message(parameters("sample=true") | extra)).parameters == "sample=true"
    with pytest.raises(IncompleteInputError, match="without attestation-agent"):
        decode_wrap_input(message({"Parameters": None}))
    with pytest.raises(IncompleteInputError, match="without attestation-agent"):
        decode_wrap_input(message({"Parameters": {"attestation-agent": None}}))


@pytest.mark.spec("ocicrypt", 22)
def test_options_as_bare_text_are_taken_as_rust_sends_them(vector: dict[str, Any]) -> None:
    text = vector["private_options"]
    request = decode_wrap_input(message(parameters("sample=true"), text))
    assert request.private_options.reveal().decode() == text


def test_only_the_first_readable_parameter_counts() -> None:
    ec: dict[str, Any] = parameters(None, "a=1", "b=2")
    ec["Parameters"]["attestation-agent"].insert(0, "not base64!")
    assert decode_wrap_input(message(ec)).parameters == "a=1"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (message(parameters("x"), None), "illegal keywrapparams without optsdata"),
        (message(None), "illegal keywrapparams without ec"),
        (
            message({"Parameters": {"other": ["eA=="]}}),
            "illegal encryption provider without attestation-agent",
        ),
        (message(parameters(None)), "no readable parameter"),
        (message(parameters()), "no readable parameter"),
    ],
)
def test_what_is_missing_is_named(data: bytes, text: str) -> None:
    with pytest.raises(IncompleteInputError, match=text):
        decode_wrap_input(data)


def test_options_that_are_neither_base64_nor_a_document_are_refused() -> None:
    with pytest.raises(OptionsEncodingError, match=r"^base64 decode$"):
        decode_wrap_input(message(parameters("x"), "?"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"op":"keywrap"}',
        b'{"op":1,"keywrapparams":{}}',
        b'{"op":"keywrap","op":"x","keywrapparams":{}}',
        message([]),
        message(parameters("x"), 1),
        message(parameters("x"), "AAAA" * 30000),
        b"\xff",
    ],
)
def test_what_is_no_wrap_input_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_wrap_input(data)


@pytest.mark.spec("ocicrypt", 20)
def test_a_wrap_output_holds_an_array_of_numbers(vector: dict[str, Any]) -> None:
    decode_wrap_input(vector["wrap_input"].encode())
    assert encode_wrap_output(b"{\x00\xff") == b'{"keywrapresults":{"annotation":[123,0,255]}}'


@given(st.binary(max_size=300))
def test_any_bytes_give_a_request_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_wrap_input(data)


@given(st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_options_and_parameters_come_back(options: bytes, text: str) -> None:
    request = decode_wrap_input(
        message(parameters(text), base64.b64encode(options).decode(), keyunwrapparams=None)
    )
    assert (request.private_options.reveal(), request.parameters) == (options, text)
