"""Which request means what. Sans-I/O.

Source: docs/spec/api-server-rest.md 2, the order of the tests there matters;
docs/spec/confidential-data-hub.md 12.5 for the routes of resource injection.
"""

from enum import Enum
from typing import Final

import msgspec

from api_server_rest.config import Feature

URL_NOT_FOUND: Final = "URL NOT FOUND"
METHOD_NOT_ALLOWED: Final = "Method Not Allowed"
AA_NOT_ENABLED: Final = "Attestation Feature Not Enabled"
CDH_NOT_ENABLED: Final = "Resource Feature Not Enabled"

RESOURCE_METHODS: Final = ("GET", "HEAD")


class Action(Enum):
    """What is asked for."""

    INFO = "info"
    TOKEN = "token"
    EVIDENCE = "evidence"
    ADDITIONAL_EVIDENCE = "additional-evidence"
    AAEL = "aael"
    RESOURCE = "resource"
    PREPARE = "injection-prepare"
    COMMIT = "injection-commit"

    @property
    def is_injection(self) -> bool:
        """Whether it pushes a resource into the guest."""
        return self in (Action.PREPARE, Action.COMMIT)


class Refusal(msgspec.Struct, frozen=True):
    """An answer that needs no backend.

    Attributes:
        status: of HTTP.
        text: the body.
        allow: methods that the path has, for the header; empty says nothing.
    """

    status: int
    text: str
    allow: str = ""


class Route(msgspec.Struct, frozen=True):
    """What a request asks for.

    Attributes:
        action: see there.
        resource: the rest of the path as it was sent: for `RESOURCE` led by a slash, where a
            resource is pushed without that slash.
    """

    action: Action
    resource: str = ""


_AA_ROUTES: Final = {
    ("GET", "/token"): Action.TOKEN,
    ("GET", "/evidence"): Action.EVIDENCE,
    ("GET", "/additional-evidence"): Action.ADDITIONAL_EVIDENCE,
    ("POST", "/aael"): Action.AAEL,
}

_INJECTION_ROUTES: Final = {"/prepare": Action.PREPARE, "/commit": Action.COMMIT}

_NOT_FOUND: Final = Refusal(404, URL_NOT_FOUND)


def find_route(
    method: str, path: str, feature: Feature, *, has_injection: bool = False
) -> Route | Refusal:
    """Judge method and path; the peer was judged before.

    Args:
        method: in upper case.
        path: as it was sent.
        feature: what is served.
        has_injection: whether there are routes that push resources.
    """
    if path == "/info":
        if method == "GET":
            return Route(Action.INFO)
        return Refusal(405, METHOD_NOT_ALLOWED, "GET")
    split = _split(path)
    if split is None:
        return _NOT_FOUND
    match split:
        case ("/aa", rest):
            return _find_aa(method, rest, feature)
        case ("/cdh", rest):
            return _find_cdh(method, rest, feature, has_injection=has_injection)
    return _NOT_FOUND


def _find_aa(method: str, rest: str, feature: Feature) -> Route | Refusal:
    if not feature.has_aa:
        return Refusal(404, AA_NOT_ENABLED)
    action = _AA_ROUTES.get((method, rest))
    return _NOT_FOUND if action is None else Route(action)


def _find_cdh(method: str, rest: str, feature: Feature, *, has_injection: bool) -> Route | Refusal:
    if not feature.has_cdh:
        return Refusal(404, CDH_NOT_ENABLED)
    split = _split(rest)
    if has_injection and split is not None and split[0] == "/resource-injection":
        return _find_injection(method, split[1])
    if split is None or split[0] != "/resource":
        return _NOT_FOUND
    if method not in RESOURCE_METHODS:
        return Refusal(405, METHOD_NOT_ALLOWED, ", ".join(RESOURCE_METHODS))
    return Route(Action.RESOURCE, split[1])


def _find_injection(method: str, rest: str) -> Route | Refusal:
    split = _split(rest)
    action = None if split is None else _INJECTION_ROUTES.get(split[0])
    if split is None or action is None:
        return _NOT_FOUND
    if method != "POST":
        return Refusal(405, METHOD_NOT_ALLOWED, "POST")
    return Route(action, split[1].removeprefix("/"))


def _split(path: str) -> tuple[str, str] | None:
    """The parts before and from the second slash on, or None without one."""
    first = path.find("/")
    second = path.find("/", first + 1)
    return None if first < 0 or second < 0 else (path[:second], path[second:])
