"""Which files an artifact has, by its manifest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from image_pull.artifact import MAX_NAME, MAX_PATH, TITLE, artifact_files
from image_pull.manifest import Descriptor, Manifest


def layer(title: str | None, media_type: str = "application/octet-stream") -> Descriptor:
    data = repr(title).encode("utf-8", "backslashreplace")
    return Descriptor(
        media_type=media_type,
        digest=HashAlgorithm.SHA256.of(data),
        size=len(data),
        annotations={} if title is None else {TITLE: title},
    )


def manifest(*layers: Descriptor) -> Manifest:
    return Manifest(config=layer(None), layers=layers)


def test_one_layer_is_the_file_and_several_have_their_titles() -> None:
    for title in (None, "model.bin", "../model.bin"):
        (only,) = artifact_files(manifest(layer(title, "a/b+encrypted")))
        assert (only.parts, only.encrypted) == ((), True)
    first, second = artifact_files(manifest(layer("config.json"), layer("w/model 1.bin")))
    assert (first.parts, second.parts) == (("config.json",), ("w", "model 1.bin"))
    assert not first.encrypted


@pytest.mark.parametrize(
    "title",
    [
        None, "", "/", "/etc/passwd", "a/", "a//b", ".", "..", "a/../b", "../a", "a\0b", "a\nb",
        "n" * (MAX_NAME + 1), "/".join(["n" * 200] * 6), "\ud800",
    ],
)  # fmt: skip
def test_a_title_that_is_no_file_s_is_refused(title: str | None) -> None:
    with pytest.raises(DecodeError, match="has no title that can be a file"):
        artifact_files(manifest(layer("good"), layer(title)))


def test_the_longest_names_are_names() -> None:
    long = "/".join(["n" * MAX_NAME] * 4)
    assert len(long) == MAX_PATH - 1
    artifact_files(manifest(layer("good"), layer(long + "n" * 0)))
    with pytest.raises(DecodeError):
        artifact_files(manifest(layer("good"), layer(long + "/n")))


@pytest.mark.parametrize(
    "titles", [("a", "a"), ("a", "a/b"), ("a/b/c", "a"), ("x", "a/b", "a/b/c")]
)
def test_names_that_do_not_go_together_are_refused(titles: tuple[str, ...]) -> None:
    with pytest.raises(DecodeError):
        artifact_files(manifest(*map(layer, titles)))


def test_an_artifact_without_a_layer_is_refused() -> None:
    with pytest.raises(DecodeError, match="no layer"):
        artifact_files(manifest())


@given(st.lists(st.text(max_size=20), min_size=2, max_size=5))
def test_any_titles_give_files_below_the_directory_or_a_decode_error(titles: list[str]) -> None:
    try:
        files = artifact_files(manifest(*map(layer, titles)))
    except DecodeError:
        return
    for file in files:
        assert file.parts
        assert not {"", ".", ".."} & set(file.parts)
        assert "/".join(file.parts) in titles
