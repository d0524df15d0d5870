"""guest/crypto/digest.py: values that know their algorithm."""

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import DecodeError, IntegrityError

SM3_OF_ABC = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
"""GB/T 32905-2016, example 1."""


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_a_digest_is_what_hashlib_computes(name: str) -> None:
    algorithm = HashAlgorithm(name)
    hasher = algorithm.new()
    hasher.update(b"ab")
    hasher.update(memoryview(b"c"))
    assert hasher.hexdigest() == hashlib.new(name, b"abc").hexdigest()
    assert algorithm.of(b"abc").value == hasher.digest()
    assert len(hasher.digest()) == algorithm.length


def test_sm3_is_that_of_the_standard_and_may_be_read_midway() -> None:
    hasher = HashAlgorithm.SM3.new()
    hasher.update(b"a")
    assert hasher.digest() == hasher.digest()
    hasher.update(b"bc")
    assert hasher.hexdigest() == SM3_OF_ABC


def test_a_digest_reads_back_from_its_text() -> None:
    text = f"sm3:{SM3_OF_ABC}"
    digest = Digest.parse(text)
    assert str(digest) == text
    assert digest == HashAlgorithm.SM3.of(b"abc")
    assert digest.hex == SM3_OF_ABC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:00",
        "SHA256:" + "0" * 64,
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "sha256:" + "0" * 66,
        "sha256:" + "g" * 64,
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        Digest.parse(text)


@given(st.text(max_size=80))
def test_any_text_gives_a_digest_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        assert str(Digest.parse(text)) == text


def test_a_digest_that_does_not_match_names_what_differs() -> None:
    digest = HashAlgorithm.SHA256.of(b"a")
    digest.verify(hashlib.sha256(b"a").digest(), "blob")
    with pytest.raises(IntegrityError, match="digest of blob does not match"):
        digest.verify(hashlib.sha256(b"b").digest(), "blob")
