"""Recipients in skopeo's words."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import GuestError, InvalidInputError, UnsupportedError
from image_pull.ocicrypt.recipients import MAX_RECIPIENTS, Recipients


def test_options_of_both_schemes_are_gathered_in_order() -> None:
    parsed = Recipients.parse(
        [
            "jwe:a.pem",
            "provider:attestation-agent:keyid=kbs:///a/b/c::sample=true",
            "jwe:dir:b.pem",
            "provider:other",
            "provider:attestation-agent:more",
        ]
    )
    assert parsed.public_keys == ("a.pem", "dir:b.pem")
    assert parsed.providers == (
        ("attestation-agent", ("keyid=kbs:///a/b/c::sample=true", "more")),
        ("other", ("Enabled",)),
    )


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("key.pem", "Invalid recipient format"),
        ("jwe:", "Invalid recipient format"),
        ("provider::x", "Invalid recipient format"),
        ("rot13:key", "Provided protocol not recognized"),
    ],
)
def test_what_skopeo_refuses_is_refused(option: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        Recipients.parse([option])


@pytest.mark.parametrize("option", ["pgp:me@example.com", "pkcs7:cert.pem", "pkcs11:key"])
def test_schemes_that_are_not_written_here_are_named(option: str) -> None:
    with pytest.raises(UnsupportedError, match=option.partition(":")[0]):
        Recipients.parse([option])


@pytest.mark.parametrize("count", [0, MAX_RECIPIENTS + 1])
def test_no_recipient_and_too_many_are_refused(count: int) -> None:
    with pytest.raises(InvalidInputError, match="recipients"):
        Recipients.parse(["jwe:x"] * count)


@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_options_give_recipients_or_an_error(options: list[str]) -> None:
    with suppress(GuestError):
        Recipients.parse(options)
