"""References against the table of the specification."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.reference import MAX_TEXT, ImageReference

HEX = "0123456789abcdef" * 4

TABLE = [
    ("busybox", "docker.io", "library/busybox", "latest", "docker.io/library/busybox:latest"),
    ("test.com:5000", "docker.io", "library/test.com", "5000", "docker.io/library/test.com:5000"),
    ("test:5000/repo", "test:5000", "repo", "latest", "test:5000/repo:latest"),
    ("localhost/x", "localhost", "x", "latest", "localhost/x:latest"),
    ("index.docker.io/foo", "docker.io", "library/foo", "latest", "docker.io/library/foo:latest"),
    (
        "registry-1.docker.io/library/x",
        "registry-1.docker.io",
        "library/x",
        "latest",
        "registry-1.docker.io/library/x:latest",
    ),
    ("a/b/c:t", "docker.io", "a/b/c", "t", "docker.io/a/b/c:t"),
    (f"q.io/a@sha256:{HEX}", "q.io", "a", None, f"q.io/a@sha256:{HEX}"),
    (f"q.io/a:t@sha256:{HEX}", "q.io", "a", "t", f"q.io/a:t@sha256:{HEX}"),
    ("a_b/c__d/e-f.g", "docker.io", "a_b/c__d/e-f.g", "latest", "docker.io/a_b/c__d/e-f.g:latest"),
    ("UP.io:80/x", "UP.io:80", "x", "latest", "UP.io:80/x:latest"),
]

REFUSED = [
    *(
        (text, "invalid reference format")
        for text in (
            "UPPER:tag",
            "Foo/bar",
            "a//b",
            "repo:t:t",
            "foo/",
            "[::1]:5000/a",
            ":t",
            f"@sha256:{HEX}",
            "a b",
            'a"b',
            "a\\b",
            "docker://a",
            "a/b:",
            "a@",
            "-a/b",
            "a/_b",
            "a...b",
            "a:-t",
            "x" * 1025,
            "ä",
            "a/b\n",
            "a.-b/c",
            "a@sha256:zz",
        )
    ),
    ("", "repository name must have at least one component"),
    ("x@md5:" + "0" * 32, "unsupported digest algorithm"),
    ("x@sha256:" + "0" * 32, "invalid checksum digest length"),
    ("a/" + "b" * 255, "repository name must not be more than 255 characters"),
]


@pytest.mark.parametrize(("text", "registry", "repository", "tag", "printed"), TABLE)
def test_a_reference_is_completed_as_the_table_says(
    text: str, registry: str, repository: str, tag: str | None, printed: str
) -> None:
    reference = ImageReference.parse(text)
    assert (reference.registry, reference.repository, reference.tag) == (registry, repository, tag)
    assert str(reference) == printed
    assert ImageReference.parse(printed) == reference


@pytest.mark.parametrize(("text", "error"), REFUSED)
def test_what_is_no_reference_is_refused_with_the_peers_text(text: str, error: str) -> None:
    with pytest.raises(DecodeError, match=f"^{error}$"):
        ImageReference.parse(text)


@pytest.mark.spec("image-pull", 10)
def test_the_whole_table_holds_and_a_long_wrong_name_is_refused_at_once() -> None:
    for text, *_, printed in TABLE:
        assert str(ImageReference.parse(text)) == printed
    for text, error in REFUSED:
        with pytest.raises(DecodeError, match=f"^{error}$"):
            ImageReference.parse(text)
    best = 1.0
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(DecodeError):
            ImageReference.parse("a" * 200 + "!")
        best = min(best, time.perf_counter() - start)
    assert best < 0.01


def test_the_longest_reference_is_so_long_when_completed() -> None:
    host = "x" * (MAX_TEXT - len(".y/a:latest")) + ".y"
    complete = str(ImageReference.parse(f"{host}/a"))
    assert len(complete) == MAX_TEXT
    assert str(ImageReference.parse(complete)) == complete
    with pytest.raises(DecodeError, match=r"^invalid reference format$"):
        ImageReference.parse(f"x{host}/a")


def test_a_digest_is_what_the_manifest_is_asked_for_by() -> None:
    assert ImageReference.parse(f"a:t@sha256:{HEX}").selector == f"sha256:{HEX}"
    assert ImageReference.parse("a:t").selector == "t"


def test_requests_for_docker_io_go_to_its_index() -> None:
    assert ImageReference.parse("a").network_host == "index.docker.io"
    assert ImageReference.parse("q.io:1/a").network_host == "q.io:1"


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        reference = ImageReference.parse(text)
        assert ImageReference.parse(str(reference)) == reference


@given(st.text(alphabet="aA0.:/@-_", max_size=40))
def test_what_is_printed_is_read_back(text: str) -> None:
    with suppress(DecodeError):
        reference = ImageReference.parse(text)
        assert ImageReference.parse(str(reference)) == reference
