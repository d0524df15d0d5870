"""Redirects, patience and the texts of refused requests."""

import pytest

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DeniedError,
    GuestError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
)
from image_pull.registry.client import status_error
from image_pull.registry.transport import MAX_REDIRECTS, Hop, origin, pause

URL = "https://q.io/v2/a/blobs/sha256:x"


@pytest.mark.parametrize(
    ("location", "url", "keeps"),
    [
        ("/other?x=1", "https://q.io/other?x=1", True),
        ("next", "https://q.io/v2/a/blobs/next", True),
        ("https://q.io:443/b", "https://q.io:443/b", True),
        ("https://q.io:444/b", "https://q.io:444/b", False),
        ("https://cdn.q.io/b", "https://cdn.q.io/b", False),
        ("//cdn.io/b", "https://cdn.io/b", False),
    ],
)
def test_a_redirect_keeps_the_password_only_at_the_same_origin(
    location: str, url: str, keeps: bool
) -> None:
    hop = Hop(URL, "Basic secret")
    hop.follow({"location": location})
    assert hop.url == url
    sent = dict(hop.headers({"Range": "bytes=1-"}))
    assert ("Authorization" in sent) is keeps
    assert sent["Accept-Encoding"] == "identity"
    assert sent["Range"] == "bytes=1-"


def test_a_password_that_was_dropped_does_not_come_back() -> None:
    hop = Hop(URL, "Basic secret")
    hop.follow({"location": "https://cdn.io/b"})
    hop.follow({"location": URL})
    assert "Authorization" not in dict(hop.headers({}))


@pytest.mark.parametrize(
    "location",
    ["", "http://q.io/b", "ftp://q.io/b", "https://user:pw@q.io/b", "https://q:x/b"],
)
def test_a_redirect_to_nowhere_or_to_less_safety_is_not_followed(location: str) -> None:
    with pytest.raises(PeerError):
        Hop(URL, None).follow({"location": location})


def test_redirects_end() -> None:
    hop = Hop(URL, None)
    for number in range(MAX_REDIRECTS):
        hop.follow({"location": f"/{number}"})
    with pytest.raises(PeerError, match="more than 10 times"):
        hop.follow({"location": "/last"})


def test_an_origin_has_its_default_port() -> None:
    assert origin("http://Q.io/x") == ("http", "q.io", 80)
    assert origin("https://[::1]:5/x") == ("https", "::1", 5)


async def test_no_pause_begins_that_the_deadline_would_end() -> None:
    with pytest.raises(DeadlineError):
        await pause(0, "10", Deadline.after(1))
    await pause(0, "nonsense", Deadline.after(10))


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, b"", UnauthenticatedError, f"Not authorized: url {URL}"),
        (
            204,
            b"",
            PeerError,
            (
                "OCI distribution spec violation: Expected HTTP Status 200 OK, "
                "got 204 No Content instead"
            ),
        ),
        (
            404,
            b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
            NotFoundError,
            (
                f"Registry error: url {URL}, envelope: OCI API errors: "
                "[OCI API error: manifest unknown]"
            ),
        ),
        (403, b"no", DeniedError, f"Server error: url {URL}, code: 403, message: no"),
        (
            500,
            b'{"errors":[]}',
            UnavailableError,
            f'Server error: url {URL}, code: 500, message: {{"errors":[]}}',
        ),
        (400, b"a\nb\x00" + b"c" * 500, PeerError, None),
    ],
)
def test_a_refusal_has_the_peers_text_and_its_own_class(
    status: int, body: bytes, kind: type[GuestError], text: str | None
) -> None:
    error = status_error(URL, status, body)
    assert type(error) is kind
    if text is not None:
        assert str(error) == text
    assert len(str(error)) < 400
    assert str(error).isprintable()
