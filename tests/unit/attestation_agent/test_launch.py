"""Init data from the command line."""

import json
from pathlib import Path

import pytest

from attestation_agent.launch import LaunchData
from guest.errors import ConfigError

ARGUMENT = "/eT2MBOijO3U/mEIL8Y00lLJN0QNhZ3PAIzfrVwJprzcFL9PhiaDlSvLF3DYOJfx"
"""docs/spec/attestation-agent.md 6.6."""


def document(vectors: Path) -> tuple[str, str]:
    vector = json.loads((vectors / "guest/initdata.json").read_text())["vectors"][0]
    return vector["document"], vector["digest"]


def test_a_document_gives_its_digest_and_text_and_wins_over_a_digest(
    short_tmp: Path, vectors: Path
) -> None:
    text, digest = document(vectors)
    (short_tmp / "initdata.toml").write_text(text)
    launch = LaunchData.read(document=short_tmp / "initdata.toml", digest="AAAA")
    assert launch == LaunchData(digest=bytes.fromhex(digest), text=text)


def test_a_digest_alone_leaves_no_text(vectors: Path) -> None:
    launch = LaunchData.read(digest=ARGUMENT)
    assert launch == LaunchData(digest=bytes.fromhex(document(vectors)[1]))


def test_neither_is_no_init_data() -> None:
    assert LaunchData.read() == LaunchData()


@pytest.mark.parametrize(
    ("digest", "words"),
    [("!", "base64 decode initdata"), ("AAAA=", "base64 decode initdata"), ("AAAA", "3 bytes")],
)
def test_a_digest_that_is_none_is_refused(digest: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LaunchData.read(digest=digest)


def test_a_document_that_is_missing_or_none_is_refused(short_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=r"read initdata toml file: .*none: No such file"):
        LaunchData.read(document=short_tmp / "none")
    (short_tmp / "bad").write_text("version = 1")
    with pytest.raises(ConfigError, match=r"read initdata toml file: .*bad: init data needs"):
        LaunchData.read(document=short_tmp / "bad")
    with pytest.raises(ConfigError, match="Is a directory"):
        LaunchData.read(document=short_tmp)
