"""Base URLs: what is one, and what is refused at start."""

import pytest

from guest.base_url import base_url, verify_base_urls
from guest.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h", "http://h"),
        ("https://h:8080/", "https://h:8080"),
        ("http://[::1]:8080/prefix//", "http://[::1]:8080/prefix"),
    ],
)
def test_a_base_url_has_no_trailing_slashes(url: str, base: str) -> None:
    assert base_url(url) == base


@pytest.mark.parametrize(
    "url",
    ["", "nope", "h:8080", "ftp://h", "http://", "http:///x", "http://h:0", "http://h:99999",
     "http://[::1", "http://h/?q", "http://h/#f", "http://h/a b", "http://h\n", "http://hö",
     "http://h\\x"],
)  # fmt: skip
def test_what_is_no_plain_http_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^table\.url '.* is not an http or https URL"):
        base_url(url, "table.url")


def test_of_several_the_bad_one_is_named_and_an_empty_one_is_none() -> None:
    verify_base_urls({"a": "http://h", "b": ""})
    with pytest.raises(ConfigError, match=r"^c 'null'"):
        verify_base_urls({"a": "http://h", "c": "null"})
