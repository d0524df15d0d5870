"""The addresses of one Trustee: fail over between them, and back off, inside a deadline.

Source: docs/spec/kbs-protocol.md 9.2 and 10.4; docs/ARCHITECTURE.md, decision 17.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from guest import correlation
from guest.base_url import base_url
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeadlineError,
    GuestError,
    UnavailableError,
)
from guest.http import CertificateError, HttpClient, HttpResponse
from guest.kbs.refusals import Remedy, judge_resource
from guest.retry import Backoff
from guest.secret import Secret

USER_AGENT: Final = "attestation-agent-kbs-client/0.1.0"

REQUEST_LIMIT: Final = 60.0
"""Seconds for one HTTP request, whatever the caller's deadline."""

ATTESTATION_HEADER: Final = "Attestation"
"""Carries the token where a gateway's key has its place (confidential-data-hub.md 12.7)."""

SHORTEST_SHARE: Final = 2.0
"""Seconds that an address gets at least while others wait their turn, if the deadline has them."""

MAX_ANSWER_LENGTH: Final = 6 * 1024 * 1024
"""Bytes of the longest resource answer: 4 MiB of resource in base64, and the JSON around it."""

RESOURCE_BACKOFF: Final = Backoff(first=0.25, most=4.0, attempts=5)

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]


class Endpoints:
    """Base URLs of the same Trustee, the one that answered last first."""

    def __init__(
        self, urls: tuple[str, ...], http: HttpClient, *, api_key: str | None = None
    ) -> None:
        """Check the URLs and take their trailing slashes off.

        Args:
            urls: the first is preferred.
            http: shared pool.
            api_key: of a gateway before the Trustee; takes the place of the token, which then
                travels in a header of its own.

        Raises:
            ConfigError: none is given, or one is not an http(s) URL; the key is no header text.
        """
        if not urls:
            raise ConfigError("no KBS URL is configured")
        self._urls = tuple(dict.fromkeys(base_url(url) for url in urls))
        self._preferred = self._urls[0]
        self._http = http
        self._api_key = None if api_key is None else _checked_key(api_key)

    async def one_round(
        self, operation: Callable[[str, Deadline], Awaitable[T]], deadline: Deadline
    ) -> T:
        """Try each address once until one answers.

        Args:
            operation: takes a base URL and its share of the time; `UnavailableError` and a share
                that ran out lead on to the next address, any other error ends the round.
            deadline: for all addresses.

        Raises:
            UnavailableError: no address answered; `CertificateError` only if trust was the
                problem with every one of them.
            DeadlineError: the deadline passed.
        """
        order = self._urls
        if order[0] != self._preferred:
            order = (self._preferred, *(url for url in order if url != self._preferred))
        failure: UnavailableError | None = None
        for index, url in enumerate(order):
            share = _share(deadline, len(order) - index)
            try:
                answer = await operation(url, share)
            except DeadlineError as error:
                if deadline.is_over():
                    raise
                failure = _worse(failure, _timed_out(url, error))
            except UnavailableError as error:
                failure = _worse(failure, error)
            else:
                self._preferred = url
                return answer
        assert failure is not None
        raise failure

    async def get_resource(
        self, path: str, credentials: Callable[[str], Headers], deadline: Deadline
    ) -> HttpResponse:
        """GET from whichever address answers, with waits between rounds.

        Args:
            path: from `ResourceUri.kbs_path`.
            credentials: gives the headers for a base URL.
            deadline: for everything.

        Returns:
            An answer of any status that waiting would not change.

        Raises:
            UnavailableError: no address gave such an answer.
            DeadlineError: the deadline passed during a request.
            LimitError, PeerError: an answer that is too long, or not HTTP.
        """

        async def ask(url: str, share: Deadline) -> HttpResponse:
            response = await self._http.request(
                "GET",
                url + path,
                headers=self._dressed(credentials(url)),
                deadline=share,
                max_body=MAX_ANSWER_LENGTH,
            )
            if response.status != 200:
                refusal = judge_resource(response.status, response.body)
                if refusal.remedy is Remedy.WAIT:
                    raise refusal.error
            return response

        attempt = 1
        while True:
            try:
                return await self.one_round(ask, deadline)
            except CertificateError:
                raise
            except UnavailableError:
                if not await RESOURCE_BACKOFF.pause(attempt, deadline):
                    raise
            attempt += 1

    def _dressed(self, headers: Headers) -> Headers:
        """The headers with the request's id, and as a gateway wants them where there is one."""
        headers = (*headers, *correlation.headers())
        if self._api_key is None:
            return headers
        moved = tuple(
            (ATTESTATION_HEADER, value.removeprefix("Bearer "))
            if name == "Authorization"
            else (name, value)
            for name, value in headers
        )
        return (("Authorization", f"Bearer {self._api_key.reveal().decode('ascii')}"), *moved)

    async def post(
        self, url: str, headers: Headers, body: bytes, deadline: Deadline, max_body: int
    ) -> HttpResponse:
        """POST JSON to one address, once.

        Raises:
            GuestError: as `HttpClient.request`.
        """
        return await self._http.request(
            "POST",
            url,
            headers=self._dressed((("Content-Type", "application/json"), *headers)),
            body=body,
            deadline=deadline,
            max_body=max_body,
        )


def _checked_key(api_key: str) -> Secret:
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ConfigError("the API key of the Trustee gateway is not printable ASCII")
    return Secret(api_key.encode("ascii"))


def _share(deadline: Deadline, addresses_left: int) -> Deadline:
    if addresses_left == 1:
        return deadline.within(REQUEST_LIMIT)
    share = max(SHORTEST_SHARE, deadline.remaining() / addresses_left)
    return deadline.within(min(REQUEST_LIMIT, share))


def _timed_out(url: str, cause: GuestError) -> UnavailableError:
    error = UnavailableError(f"{url} did not answer in time")
    error.__cause__ = cause
    return error


def _worse(earlier: UnavailableError | None, later: UnavailableError) -> UnavailableError:
    """Give the error to report: a refused certificate hides no other failure."""
    if earlier is not None and isinstance(later, CertificateError):
        return earlier
    return later
