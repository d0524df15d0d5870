"""Method and path become an action or a refusal."""

import pytest

from api_server_rest.access import is_loopback
from api_server_rest.config import Feature
from api_server_rest.routing import Action, Refusal, Route, find_route


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/info", Route(Action.INFO)),
        ("GET", "/aa/token", Route(Action.TOKEN)),
        ("GET", "/aa/evidence", Route(Action.EVIDENCE)),
        ("GET", "/aa/additional-evidence", Route(Action.ADDITIONAL_EVIDENCE)),
        ("POST", "/aa/aael", Route(Action.AAEL)),
        ("GET", "/cdh/resource/a", Route(Action.RESOURCE, "/a")),
        ("HEAD", "/cdh/resource/a/b/c/d/e", Route(Action.RESOURCE, "/a/b/c/d/e")),
        ("GET", "/cdh/resource/", Route(Action.RESOURCE, "/")),
        ("GET", "/cdh/resource//a", Route(Action.RESOURCE, "//a")),
    ],
)
def test_a_known_path_has_its_action(method: str, path: str, expected: Route) -> None:
    assert find_route(method, path, Feature.ALL) == expected


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/info", 405),
        ("POST", "/info", 405),
        ("POST", "/cdh/resource/a", 405),
        ("OPTIONS", "/cdh/resource/a", 405),
        *((method, path, 404) for method in ("GET", "POST") for path in (
            "", "/", "*", "/aa", "/cdh", "/x", "/info/", "/x/y", "//cdh/resource/a", "/AA/token",
            "/cdh/", "/cdh/resource", "/cdh/resourcex/a", "/cdh//resource/a", "/aa/", "/aa/token/",
            "/aa/token/x", "/aa//token", "/cdh/Resource/a", "/a%61/token",
        )),
        ("GET", "/aa/aael", 404),
        ("PUT", "/aa/aael", 404),
        ("POST", "/aa/token", 404),
    ],
)  # fmt: skip
def test_everything_else_is_refused(method: str, path: str, status: int) -> None:
    refusal = find_route(method, path, Feature.ALL)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status


@pytest.mark.parametrize("path", ["/aa/token", "/aa/x", "/aa/"])
def test_without_attestation_all_of_aa_is_off(path: str) -> None:
    expected = Refusal(404, "Attestation Feature Not Enabled")
    assert find_route("GET", path, Feature.RESOURCE) == expected


@pytest.mark.parametrize("path", ["/cdh/resource/a", "/cdh/x", "/cdh/"])
def test_without_resource_all_of_cdh_is_off(path: str) -> None:
    expected = Refusal(404, "Resource Feature Not Enabled")
    assert find_route("POST", path, Feature.ATTESTATION) == expected


@pytest.mark.parametrize("path", ["/aa", "/cdh", "/x"])
@pytest.mark.parametrize("feature", list(Feature))
def test_a_path_without_second_slash_is_unknown_whatever_is_off(
    path: str, feature: Feature
) -> None:
    assert find_route("GET", path, feature) == Refusal(404, "URL NOT FOUND")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1"])
def test_loopback_peers_may_ask(host: str) -> None:
    assert is_loopback(host)
    if ":" not in host:
        assert is_loopback(f"::ffff:{host}")


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "10.0.0.1", "0.0.0.0", "128.0.0.1", "::", "::2", "::ffff:10.0.0.1",
     "fe80::1%eth0", "::127.0.0.1", "127.0.0.1, 10.0.0.1"],
)  # fmt: skip
def test_other_peers_may_not(host: str) -> None:
    assert not is_loopback(host)
