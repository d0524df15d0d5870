"""New init data documents, and the room they take."""

import random
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.initdata_budget import CHANNELS, budgets
from guest.initdata_build import ALGORITHMS, VERSION, build
from guest.initdata_form import ANNOTATION, pack

AWKWARD = (
    "",
    "plain\n",
    "ends with a quote'",
    "'''",
    'has """ and \\ and \\n',
    "carriage\r\nreturn\r",
    "tab\tbell\x07 delete\x7f nul\0",
    "\n\nbegins with line ends",
    'ends with four """"',
    "ünïcödé \U0001f600 \x85 \u2028",
)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_text_comes_back_as_it_was(algorithm: HashAlgorithm) -> None:
    files = {f"file {n}": text for n, text in enumerate(AWKWARD)}
    document = build(algorithm, files)
    tree = tomllib.loads(document.text)
    assert tree == {"version": VERSION, "algorithm": algorithm.value, "data": files}
    assert document.digest() == algorithm.of(document.content)


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=60), max_size=4))
def test_any_files_are_held_as_they_are(files: dict[str, str]) -> None:
    try:
        document = build(HashAlgorithm.SHA256, files)
    except DecodeError:
        assert any("\ud800" <= c <= "\udfff" for text in (*files, *files.values()) for c in text)
        return
    assert list(document.data.items()) == list(files.items())


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(DecodeError, match="surrogate"):
        build(HashAlgorithm.SHA256, {"aa.toml": "\ud800"})


def test_readable_files_stay_readable() -> None:
    text = build(HashAlgorithm.SHA256, {"aa.toml": 'a = "b"\n'}).text
    assert text == (
        'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"aa.toml" = \'\'\'\na = "b"\n\'\'\'\n'
    )


def test_a_budget_counts_what_the_channel_counts() -> None:
    content = bytes(range(256)) * 8
    used = {found.channel.name: found.used for found in budgets(content)}
    packed = len(pack(content))
    assert used["annotation"] == packed + len(ANNOTATION)
    assert used["alibaba"] == used["aws"] > packed
    assert used["azure"] == used["gcp"] == (used["aws"] + 2) // 3 * 4
    assert {channel.name for channel in CHANNELS} == set(used)


def test_a_document_that_is_too_long_does_not_fit_the_small_clouds() -> None:
    content = random.Random(1).randbytes(12_000)
    kept = {found.channel.name for found in budgets(content) if found.is_kept}
    assert kept == {"annotation", "azure", "gcp", "alibaba"}
