"""How a repository is asked: token servers, refresh tokens, fall-backs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from guest.deadline import Deadline
from guest.errors import PeerError, UnauthenticatedError
from guest.http import HttpResponse
from guest.secret import Secret
from image_pull.registry.auth import Credentials
from image_pull.registry.tokens import Authorizer
from image_pull.registry.transport import Transport

BEARER = {"www-authenticate": 'Bearer realm="https://auth.io/t",service="s"'}
BASIC = Credentials(basic=Secret(b"user:pass"))


@dataclass
class Script(Transport):
    """A registry and a token server of prepared answers."""

    challenge: Mapping[str, str]
    token: HttpResponse = field(
        default_factory=lambda: HttpResponse(status=200, headers={}, body=b'{"token":"t1"}')
    )
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    forms: list[tuple[str, bytes]] = field(default_factory=list)

    async def get(
        self, url: str, *, authorization: str | None, deadline: Deadline, max_body: int
    ) -> HttpResponse:
        self.asked.append((url, authorization))
        if url.endswith("/v2/"):
            return HttpResponse(status=401, headers=self.challenge, body=b"")
        return self.token

    async def post_form(
        self, url: str, form: bytes, *, deadline: Deadline, max_body: int
    ) -> HttpResponse:
        self.forms.append((url, form))
        return HttpResponse(status=200, headers={}, body=b'{"access_token":"t2"}')


def authorizer(script: Script, credentials: Credentials | None) -> Authorizer:
    return Authorizer(script, "https://q.io", "a/b", credentials)


DEADLINE = Deadline.unlimited()
SCOPE = "scope=repository%3Aa%2Fb%3Apull&service=s"


async def test_nobody_is_asked_before_an_anonymous_request() -> None:
    script = Script(BEARER)
    assert await authorizer(script, None).header(DEADLINE) is None
    assert script.asked == []


async def test_a_refused_anonymous_request_is_asked_again_with_a_token() -> None:
    script = Script(BEARER)
    auth = authorizer(script, None)
    assert auth.refused(BEARER, None)
    assert await auth.header(DEADLINE) == "Bearer t1"
    assert await auth.header(DEADLINE) == "Bearer t1"
    assert script.asked == [(f"https://auth.io/t?{SCOPE}", None)]


async def test_a_password_goes_to_the_token_server_and_to_nobody_else() -> None:
    script = Script(BEARER)
    assert await authorizer(script, BASIC).header(DEADLINE) == "Bearer t1"
    assert script.asked == [
        ("https://q.io/v2/", None),
        (f"https://auth.io/t?{SCOPE}", "Basic dXNlcjpwYXNz"),
    ]


async def test_without_a_bearer_scheme_the_password_itself_is_sent() -> None:
    script = Script({"www-authenticate": 'Basic realm="x"'})
    auth = authorizer(script, BASIC)
    assert await auth.header(DEADLINE) == "Basic dXNlcjpwYXNz"
    assert not auth.refused(script.challenge, "Basic dXNlcjpwYXNz")


async def test_a_token_that_was_refused_is_replaced() -> None:
    script = Script(BEARER)
    auth = authorizer(script, BASIC)
    sent = await auth.header(DEADLINE)
    script.token = HttpResponse(status=200, headers={}, body=b'{"access_token":"t9"}')
    assert auth.refused(BEARER, sent)
    assert await auth.header(DEADLINE) == "Bearer t9"


async def test_a_refusal_of_an_older_token_does_not_cost_the_newer_one() -> None:
    script = Script(BEARER)
    auth = authorizer(script, BASIC)
    await auth.header(DEADLINE)
    assert auth.refused(BEARER, "Bearer old")
    count = len(script.asked)
    assert await auth.header(DEADLINE) == "Bearer t1"
    assert len(script.asked) == count


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("repository:x/y:pull", "repository%3Ax%2Fy%3Apull"),
        ("repository:x/y:pull,push", "repository%3Aa%2Fb%3Apull"),
        ("registry:catalog:*", "repository%3Aa%2Fb%3Apull"),
    ],
)
async def test_a_challenge_may_name_a_repository_to_pull_and_no_more(
    scope: str, expected: str
) -> None:
    script = Script({"www-authenticate": f'Bearer realm="https://auth.io/t",scope="{scope}"'})
    await authorizer(script, BASIC).header(DEADLINE)
    assert script.asked[-1][0] == f"https://auth.io/t?scope={expected}"


async def test_a_registry_token_is_the_bearer_token() -> None:
    script = Script(BEARER)
    auth = authorizer(script, Credentials(registry_token=Secret(b"r")))
    assert await auth.header(DEADLINE) == "Bearer r"
    assert not auth.refused(BEARER, "Bearer r")
    assert script.asked == []


async def test_an_identity_token_is_exchanged() -> None:
    script = Script(BEARER)
    auth = authorizer(script, Credentials(identity_token=Secret(b"i")))
    assert await auth.header(DEADLINE) == "Bearer t2"
    assert script.forms == [
        (
            "https://auth.io/t",
            f"{SCOPE}&client_id=coco-guest&grant_type=refresh_token&refresh_token=i".encode(),
        )
    ]


@pytest.mark.parametrize("status", [404, 405])
async def test_a_token_server_that_knows_no_get_is_posted_to(status: int) -> None:
    script = Script(BEARER, HttpResponse(status=status, headers={}, body=b""))
    assert await authorizer(script, BASIC).header(DEADLINE) == "Bearer t2"
    assert b"grant_type=password&username=user&password=pass" in script.forms[0][1]


async def test_a_wrong_password_is_told_from_a_broken_token_server() -> None:
    script = Script(BEARER, HttpResponse(status=401, headers={}, body=b""))
    with pytest.raises(UnauthenticatedError):
        await authorizer(script, BASIC).header(DEADLINE)
    for body in (b"", json.dumps({"token": 5}).encode()):
        script = Script(BEARER, HttpResponse(status=200, headers={}, body=body))
        with pytest.raises(PeerError):
            await authorizer(script, BASIC).header(DEADLINE)


@pytest.mark.parametrize("realm", ["http://auth.io/t", "", "ftp://x", "https://u:p@auth.io/t"])
async def test_a_password_does_not_go_to_a_token_server_that_is_less_safe(realm: str) -> None:
    script = Script({"www-authenticate": f'Bearer realm="{realm}"'})
    with pytest.raises(PeerError):
        await authorizer(script, BASIC).header(DEADLINE)
    assert script.asked == [("https://q.io/v2/", None)]
