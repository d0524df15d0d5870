"""The owner's parameter string."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.keyprovider.parameters import MAX_LENGTH, WrapParameters
from guest.errors import DecodeError


def test_what_skopeo_documents_is_read() -> None:
    text = "keypath=/key::keyid=kbs:///default/key/1::algorithm=A256GCM"
    assert WrapParameters.parse(text) == WrapParameters(
        kid="kbs:///default/key/1", key_path="/key", algorithm="A256GCM"
    )


@pytest.mark.parametrize("text", ["", "Enabled", "no fields at all", "colour=blue"])
def test_a_bare_provider_asks_for_the_defaults(text: str) -> None:
    assert WrapParameters.parse(text) == WrapParameters()


@pytest.mark.spec("ocicrypt", 26)
def test_a_kid_with_an_ipv6_host_survives_the_split_at_double_colons() -> None:
    text = "keyid=kbs://[::1]:8080/a/b/c::keypath=/k::sample=false"
    parsed = WrapParameters.parse(text)
    assert parsed == WrapParameters(kid="kbs://[::1]:8080/a/b/c", key_path="/k")
    assert WrapParameters.parse("keyid=kbs://[fe80::1::2]/a").kid == "kbs://[fe80::1::2]/a"


def test_the_later_of_two_equal_fields_wins() -> None:
    assert WrapParameters.parse("keyid=a::keyid=b").kid == "b"


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("True", False), ("1", False)])
def test_only_the_word_true_asks_for_the_sample_key(value: str, expected: bool) -> None:
    assert WrapParameters.parse(f"sample={value}").sample is expected


def test_the_algorithm_is_read_from_its_own_field() -> None:
    parsed = WrapParameters.parse("keypath=A256CTR::algorithm=A256GCM")
    assert (parsed.algorithm, parsed.key_path) == ("A256GCM", "A256CTR")
    assert WrapParameters.parse("algorithm=A256CTR").algorithm == "A256CTR"
    assert WrapParameters.parse("packet=2").packet_version == "2"


@pytest.mark.parametrize(
    "text", ["algorithm=AES", "algorithm=", "packet=3", "packet=", "k=" + "x" * MAX_LENGTH]
)
def test_what_nobody_could_honour_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        WrapParameters.parse(text)


@given(st.text(max_size=200))
def test_any_text_gives_parameters_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        WrapParameters.parse(text)


@given(st.text(st.characters(exclude_characters=":="), min_size=1, max_size=40))
def test_a_value_without_separators_comes_back(value: str) -> None:
    assert WrapParameters.parse(f"keyid={value}::sample=true").kid == value
