"""How one repository wants to be asked: nothing, a password or a bearer token.

Source: docs/spec/image-pull.md, section 6.2; distribution "Token Authentication", "OAuth2".
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, PeerError, UnauthenticatedError
from guest.http import HttpResponse
from guest.single_flight import SingleFlight
from image_pull.registry.auth import (
    MAX_TOKEN_REPLY,
    Challenge,
    Credentials,
    TokenReply,
    parse_challenges,
    parse_token_reply,
)
from image_pull.registry.transport import Transport, origin

CLIENT_ID: Final = "coco-guest"
PULL_SCOPE: Final = re.compile(r"repository:[^: ]+:pull")
TOKEN_SECONDS: Final = 60.0
"""Seconds that getting one token may take; callers share it and bound their own waits."""

EXPIRY_MARGIN: Final = 0.9
"""Part of a token's life after which it is not used any more."""


class Authorizer:
    """The `Authorization` header for one repository, kept between requests and pulls."""

    def __init__(
        self, transport: Transport, base: str, repository: str, credentials: Credentials | None
    ) -> None:
        """Authorize for one repository.

        Args:
            transport: to ask the registry and its token server.
            base: `scheme://host` of the registry.
            repository: its path there.
            credentials: for it, None for anonymous.
        """
        self._transport = transport
        self._base = base
        self._repository = repository
        self._credentials = credentials or Credentials()
        self._anonymous = credentials is None
        self._probed = False
        self._challenge: Challenge | None = None
        self._token: TokenReply | None = None
        self._until = Deadline.after(0)
        self._flights: SingleFlight[TokenReply] = SingleFlight()

    async def header(self, deadline: Deadline) -> str | None:
        """The value for the next request, None for none.

        Raises:
            GuestError: the registry or its token server cannot be asked, or refuses.
        """
        if self._credentials.registry_token is not None:
            return _bearer(self._credentials.registry_token.reveal())
        if not self._anonymous and not self._probed:
            await self._probe(deadline)
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return self._credentials.basic_header()
        if self._token is None or self._until.is_over():
            challenge = self._challenge
            async with deadline.limit("the registry's token"):
                token = await self._flights.run("token", lambda: self._fetch(challenge))
            self._token, self._until = token, Deadline.after(token.life * EXPIRY_MARGIN)
        return _bearer(self._token.token.reveal())

    async def _probe(self, deadline: Deadline) -> None:
        response = await self._transport.get(
            f"{self._base}/v2/", authorization=None, deadline=deadline, max_body=MAX_TOKEN_REPLY
        )
        self._probed = True
        if response.status == 401:
            self._learn(response.headers)

    def refused(self, headers: Mapping[str, str], sent: str | None) -> bool:
        """Learn from a 401; whether asking again with a new header makes sense.

        Args:
            headers: of the answer.
            sent: the header that was not good enough.
        """
        if self._credentials.registry_token is not None:
            return False
        try:
            self._learn(headers)
        except DecodeError:
            return False
        if self._challenge is None:
            return False
        if self._challenge.scheme == "basic":
            return sent is None and self._credentials.basic is not None
        if self._token is None or sent == _bearer(self._token.token.reveal()):
            self._token = None
        return True

    def _learn(self, headers: Mapping[str, str]) -> None:
        offered = parse_challenges(headers.get("www-authenticate", ""))
        bearer = [each for each in offered if each.scheme == "bearer"]
        basic = [each for each in offered if each.scheme == "basic"]
        if bearer:
            self._challenge = bearer[0]
        elif basic and not self._anonymous:
            self._challenge = basic[0]

    async def _fetch(self, challenge: Challenge) -> TokenReply:
        deadline = Deadline.after(TOKEN_SECONDS)
        realm = challenge.parameters.get("realm", "")
        scheme = origin(realm)[0]
        if scheme == "http" and urlsplit(self._base).scheme == "https" and not self._anonymous:
            raise PeerError("token server of an https registry is plain http")
        scope = challenge.parameters.get("scope", "")
        if not PULL_SCOPE.fullmatch(scope):
            scope = f"repository:{self._repository}:pull"
        query = {"scope": scope}
        if challenge.parameters.get("service"):
            query["service"] = challenge.parameters["service"]
        response = await self._ask(realm, query, deadline)
        if response.status != 200:
            error = UnauthenticatedError if response.status in (400, 401, 403) else PeerError
            raise error(f"token server answers status {response.status}")
        try:
            return parse_token_reply(response.body)
        except DecodeError as error:
            raise PeerError("token server gives no token") from error

    async def _ask(self, realm: str, query: dict[str, str], deadline: Deadline) -> HttpResponse:
        form = {**query, "client_id": CLIENT_ID}
        if self._credentials.identity_token is not None:
            form["grant_type"] = "refresh_token"
            form["refresh_token"] = self._credentials.identity_token.reveal().decode("ascii")
            return await self._post(realm, form, deadline)
        separator = "&" if urlsplit(realm).query else "?"
        response = await self._transport.get(
            f"{realm}{separator}{urlencode(query)}",
            authorization=self._credentials.basic_header(),
            deadline=deadline,
            max_body=MAX_TOKEN_REPLY,
        )
        if response.status not in (404, 405) or self._credentials.basic is None:
            return response
        user, _, password = self._credentials.basic.reveal().decode("utf-8").partition(":")
        form |= {"grant_type": "password", "username": user, "password": password}
        return await self._post(realm, form, deadline)

    async def _post(self, realm: str, form: dict[str, str], deadline: Deadline) -> HttpResponse:
        return await self._transport.post_form(
            realm,
            urlencode(form).encode("ascii"),
            deadline=deadline,
            max_body=MAX_TOKEN_REPLY,
        )


def _bearer(token: bytes) -> str:
    return f"Bearer {token.decode('ascii')}"


def not_authorized(url: str, cause: GuestError | None = None) -> GuestError:
    """The error that clients look for, with the class of what lies behind it."""
    kind = type(cause) if cause is not None else UnauthenticatedError
    return kind(f"Not authorized: url {url}")
