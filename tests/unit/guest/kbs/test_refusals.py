"""guest/kbs/refusals.py: each refusal has its error and its remedy."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import (
    DeniedError,
    GuestError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from guest.kbs.refusals import Remedy, judge_handshake, judge_resource

BASE = "https://github.com/confidential-containers/kbs/errors/"


def _body(kind: str, detail: str = "because") -> bytes:
    return json.dumps({"type": BASE + kind, "detail": detail}).encode()


@pytest.mark.parametrize(
    ("kind", "error", "remedy"),
    [
        ("TokenNotFound", UnauthenticatedError, Remedy.ATTEST),
        ("TokenVerifierError", UnauthenticatedError, Remedy.ATTEST),
        ("AttestationError", UnauthenticatedError, Remedy.ATTEST),
        ("PolicyDeny", DeniedError, Remedy.NONE),
        ("AdminAuthAccess", DeniedError, Remedy.NONE),
        ("AdminAuthInitialization", DeniedError, Remedy.NONE),
        ("PluginInternalError", PeerError, Remedy.NONE),
        ("PolicyEngineError", PeerError, Remedy.NONE),
        ("JweError", PeerError, Remedy.NONE),
        ("PluginNotFound", NotFoundError, Remedy.NONE),
        ("NeverHeardOf", PeerError, Remedy.NONE),
    ],
)
def test_a_401_is_judged_by_its_kind(kind: str, error: type[GuestError], remedy: Remedy) -> None:
    found = judge_resource(401, _body(kind))
    assert (type(found.error), found.remedy) == (error, remedy)
    assert kind in str(found.error)
    assert "because" in str(found.error)


@pytest.mark.parametrize(
    ("status", "body", "error", "remedy"),
    [
        (401, b"<html>login", UnauthenticatedError, Remedy.ATTEST),
        (401, b"", UnauthenticatedError, Remedy.ATTEST),
        (404, _body("PluginNotFound"), NotFoundError, Remedy.NONE),
        (404, b"", NotFoundError, Remedy.NONE),
        (400, b"bad", PeerError, Remedy.NONE),
        (403, b"no", PeerError, Remedy.NONE),
        (302, b"", PeerError, Remedy.NONE),
        (408, b"", UnavailableError, Remedy.WAIT),
        (429, b"", UnavailableError, Remedy.WAIT),
        (500, b"boom", UnavailableError, Remedy.WAIT),
        (503, b"", UnavailableError, Remedy.WAIT),
    ],
)
def test_any_other_status_is_judged_by_itself(
    status: int, body: bytes, error: type[GuestError], remedy: Remedy
) -> None:
    found = judge_resource(status, body)
    assert (type(found.error), found.remedy) == (error, remedy)
    assert str(status) in str(found.error)


@pytest.mark.parametrize(
    ("status", "body", "error", "remedy"),
    [
        (401, _body("AttestationError", "RCAR handshake Attest failed"), UnauthenticatedError, 2),
        (
            401,
            _body("AttestationError", "Auth failed: KBS Client Protocol Version Mismatch: x"),
            UnsupportedError,
            1,
        ),
        (401, b"", UnauthenticatedError, 2),
        (404, _body("PluginNotFound", "Plugin auth not found"), NotFoundError, 1),
        (413, b"too long", PeerError, 1),
        (307, b"", PeerError, 1),
        (502, b"", UnavailableError, 3),
    ],
)
def test_a_handshake_is_judged_likewise(
    status: int, body: bytes, error: type[GuestError], remedy: int
) -> None:
    found = judge_handshake(status, body)
    assert (type(found.error), found.remedy) == (error, Remedy(remedy))


@given(st.integers(100, 599), st.binary(max_size=400))
def test_any_answer_gives_an_error_of_one_short_printable_line(status: int, body: bytes) -> None:
    for judge in (judge_resource, judge_handshake):
        text = str(judge(status, body).error)
        assert text.isprintable()
        assert len(text) < 1000
