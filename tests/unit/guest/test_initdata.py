"""The init data document and its digests."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.initdata import InitData, fit


def test_the_digest_is_over_the_exact_bytes_as_published(vectors: Path) -> None:
    for vector in json.loads((vectors / "guest/initdata.json").read_text())["vectors"]:
        document = InitData.parse(vector["document"].encode())
        assert document.digest().hex == vector["digest"]
        assert fit(document.digest().value, 48).hex() == vector["mrconfigid"]
        assert document.text == vector["document"]
        assert set(document.data) == {"aa.toml"}


def test_sm3_and_unknown_top_level_keys_are_taken() -> None:
    text = b'version = "9"\nalgorithm = "sm3"\nother = 1\n[data]\n'
    assert len(InitData.parse(text).digest().value) == 32


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'algorithm = "sha256"\n[data]\n',
        b'version = "1"\n[data]\n',
        b'version = "1"\nalgorithm = "sha256"\n',
        b'version = "1"\nalgorithm = "SHA256"\n[data]\n',
        b'version = "1"\nalgorithm = "md5"\n[data]\n',
        b'version = 1\nalgorithm = "sha256"\n[data]\n',
        b'version = "1"\nalgorithm = "sha256"\ndata = "x"\n',
        b'version = "1"\nalgorithm = "sha256"\n[data]\na = 1\n',
        b'version = "\xff"',
        b"x = " + b"[" * 100_000,
        b"#" * (4 * 1024 * 1024 + 1),
    ],
)
def test_a_document_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(DecodeError):
        InitData.parse(text)


@given(st.binary(max_size=100))
def test_any_bytes_give_a_document_or_a_decode_error(content: bytes) -> None:
    try:
        assert InitData.parse(content).content == content
    except DecodeError:
        pass


@given(st.binary(max_size=100), st.integers(0, 80))
def test_fit_cuts_or_pads_with_zeros(digest: bytes, length: int) -> None:
    fitted = fit(digest, length)
    assert len(fitted) == length
    assert fitted.rstrip(b"\0") == digest[:length].rstrip(b"\0")
