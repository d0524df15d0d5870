"""guest/resource_uri.py: the grammar, the path to ask for, and the text again."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.resource_uri import MAX_URI_LENGTH, ResourceUri

INVALID = "invalid kbs resource uri, should be kbs://<addr-of-kbs>/<repo>/<type>/<tag>"


@pytest.mark.spec("kbs-protocol", 30)
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("kbs:///a/b/c", "/kbs/v0/resource/a/b/c"),
        ("kbs://h:1/a/b/c", "/kbs/v0/resource/a/b/c"),
        ("KBS:///a/b/c", "/kbs/v0/resource/a/b/c"),
        ("kbs+resource:///a/b/c", "/kbs/v0/resource/a/b/c"),
        ("kbs+pkcs11:///a/b/c?x=1", "/kbs/v0/pkcs11/a/b/c?x=1"),
    ],
)
def test_a_uri_maps_to_its_path_at_the_kbs(text: str, path: str) -> None:
    assert ResourceUri.parse(text).kbs_path() == path


@pytest.mark.spec("kbs-protocol", 31)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http:///a/b/c", "scheme must be kbs or kbs+<plugin>"),
        ("kbs+:///a", "scheme kbs+ requires a plugin name, e.g. kbs+pkcs11"),
        ("kbs://host", INVALID),
        ("", INVALID),
    ],
)
def test_a_wrong_uri_is_refused_with_its_text(text: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        ResourceUri.parse(text)
    assert str(caught.value) == message
    assert ResourceUri.parse("kbs:///a/../b/c/d").path == "b/c/d"


@pytest.mark.spec("kbs-protocol", 32)
@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("kbs+resource:///a/b/c", "kbs:///a/b/c"),
        ("kbs+resource://h:80/a/b/c?q=1", "kbs://h:80/a/b/c?q=1"),
        ("kbs://h:1/a/b/c?x=%20y", "kbs://h:1/a/b/c?x=%20y"),
        ("KBS+PKCS11://h/a", "kbs+pkcs11://h/a"),
        ("kbs://[::0001]:080/a?", "kbs://[::1]:80/a?"),
    ],
)
def test_the_serialised_form_is_normalised_and_keeps_host_port_and_query(
    text: str, again: str
) -> None:
    assert str(ResourceUri.parse(text)) == again


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("kbs://h/", ""),
        ("kbs:///a//c", "a//c"),
        ("kbs:/a/b/c", "a/b/c"),
        ("kbs:///a/./b", "a/b"),
        ("kbs:///a/b/.", "a/b/"),
        ("kbs:///a/b/..", "a/"),
        ("kbs:///../../a", "a"),
        ("kbs:///a/%2e%2E/b", "b"),
        ("kbs:///a/.%2e/b", "b"),
        ("kbs:///a b/ä/{c}", "a%20b/%C3%A4/%7Bc%7D"),
        ("kbs:///a%2Fb/c", "a%2Fb/c"),
        ("kbs:///a\\b", "a\\b"),
        ("  kbs:///a/b/c\n", "a/b/c"),
        ("kbs:///a/\tb/c", "a/b/c"),
        ("kbs:///a/b/c#fragment?no", "a/b/c"),
        ("kbs://user:secret@h/a", "a"),
    ],
)
def test_the_path_is_read_as_a_url_reads_it(text: str, path: str) -> None:
    uri = ResourceUri.parse(text)
    assert uri.path == path
    assert uri.segments == tuple(path.split("/"))


@pytest.mark.parametrize(
    "text",
    [
        "kbs:",
        "kbs:a/b/c",
        "a/b/c",
        "1kbs:///a",
        "kbs://h:99999/a",
        "kbs://h:x/a",
        "kbs://:1/a",
        "kbs://u@/a",
        "kbs://a b/c",
        "kbs://[::1/a",
        "kbs://[::1]x/a",
        "kbs://[zz]/a",
        "kbs://[fe80::1%25eth0]/a",
        "kbs+..:///auth",
        "kbs+.:///auth",
        "kbs:///\ud800",
        "kbs+pkcs11",
    ],
)
def test_what_is_no_resource_uri_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        ResourceUri.parse(text)


def test_a_uri_beyond_the_limit_is_refused() -> None:
    with pytest.raises(DecodeError, match="longer than"):
        ResourceUri.parse("kbs:///" + "a" * MAX_URI_LENGTH)


@given(
    st.text(max_size=40) | st.text(alphabet="kbs+:/.%2eE?#@[]1a", max_size=30).map("kbs:/".__add__)
)
def test_any_text_gives_a_uri_that_reads_back_the_same_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        uri = ResourceUri.parse(text)
        assert ResourceUri.parse(str(uri)) == uri
        assert uri.kbs_path().isascii()
        assert ".." not in uri.segments


@given(st.text(alphabet="ab/.-~%?#@: \n", max_size=20))
def test_the_usual_spelling_takes_a_short_way_to_what_the_long_one_gives(rest: str) -> None:
    results: list[ResourceUri | str] = []
    for scheme in ("kbs", "KBS"):  # only the first is ever read the short way
        try:
            results.append(ResourceUri.parse(f"{scheme}:///{rest}"))
        except DecodeError as error:
            results.append(str(error))
    assert results[0] == results[1]
