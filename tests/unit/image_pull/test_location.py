"""Where images are, in skopeo's words."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import InvalidInputError
from image_pull.location import LayoutLocation, RegistryLocation, parse_location


@pytest.mark.parametrize(
    ("text", "directory", "tag"),
    [
        ("oci:dir", "dir", None),
        ("oci:/a/b:v1", "/a/b", "v1"),
        ("oci:dir:host/name:tag", "dir", "host/name:tag"),
    ],
)
def test_a_layout_is_a_directory_and_perhaps_a_tag(
    text: str, directory: str, tag: str | None
) -> None:
    assert parse_location(text) == LayoutLocation(directory=directory, tag=tag)


def test_an_image_in_a_registry_is_completed() -> None:
    location = parse_location("docker://127.0.0.1:5000/demo/app")
    assert isinstance(location, RegistryLocation)
    assert str(location.reference) == "127.0.0.1:5000/demo/app:latest"


@pytest.mark.parametrize(
    "text",
    ["", "dir", "oci:", "oci::tag", "oci:dir:", "docker://", "docker://A", "dir:x", "oci:\0"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_location(text)


@given(st.sampled_from(["oci:", "docker://", ""]), st.text(max_size=60))
def test_any_text_gives_a_location_or_an_error(scheme: str, text: str) -> None:
    with suppress(InvalidInputError):
        parse_location(scheme + text)
