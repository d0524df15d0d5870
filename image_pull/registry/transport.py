"""GET over one connection pool: redirects without credentials, retries, limits.

Source: docs/spec/image-pull.md, sections 6.1 and 6.4; RFC 9110 §15.4.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urljoin, urlsplit

from guest.deadline import Deadline
from guest.errors import DeadlineError, PeerError, UnavailableError
from guest.http import CertificateError, HttpClient, HttpResponse, HttpStream
from image_pull.manifest import ACCEPT

log = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 10
RETRIES: Final = 3
"""Further attempts of one request after the first."""

FIRST_PAUSE: Final = 0.2
"""Seconds before the first further attempt; doubled for each next, half of it by chance."""

LONGEST_PAUSE: Final = 50.0
"""Most seconds of `Retry-After` that are obeyed."""

ATTEMPT: Final = 30.0
"""Seconds for one attempt at a request whose whole answer is read."""

ANSWER: Final = 60.0
"""Seconds for all attempts at it."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: where credentials may go.

    Raises:
        PeerError: not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PeerError("registry named an address that is no URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise PeerError("registry named an address that is no plain http or https URL")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


@dataclass(slots=True)
class Hop:
    """One request of a chain of redirects.

    Attributes:
        url: where it goes.
        authorization: the header's value, dropped once the origin changes.
        count: redirects so far.
    """

    url: str
    authorization: str | None
    count: int = 0

    def headers(self, extra: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """What the request carries."""
        pairs = [("Accept", ACCEPT), ("Accept-Encoding", "identity"), *extra.items()]
        if self.authorization is not None:
            pairs.append(("Authorization", self.authorization))
        return tuple(pairs)

    def follow(self, headers: Mapping[str, str]) -> None:
        """Go where `Location` says.

        Raises:
            PeerError: nowhere, too often, or from https to http.
        """
        self.count += 1
        location = headers.get("location")
        if not location:
            raise PeerError("registry redirects to nowhere")
        if self.count > MAX_REDIRECTS:
            raise PeerError(f"registry redirects more than {MAX_REDIRECTS} times")
        target = urljoin(self.url, location)
        before, after = origin(self.url), origin(target)
        if before[0] == "https" and after[0] == "http":
            raise PeerError("registry redirects from https to http")
        if before != after:
            self.authorization = None
        self.url = target


class Transport:
    """Requests of the registry client."""

    def __init__(self, http: HttpClient) -> None:
        """Send over `http`, which the caller closes."""
        self._http = http

    async def get(
        self,
        url: str,
        *,
        authorization: str | None,
        deadline: Deadline,
        max_body: int,
    ) -> HttpResponse:
        """The answer to a GET, whatever its status, after redirects and retries.

        Raises:
            UnavailableError, DeadlineError: no answer, also when tried again.
            LimitError: the answer is longer than `max_body`.
            PeerError: a redirect that must not be followed, or no HTTP.
        """
        deadline = deadline.within(ANSWER)
        for attempt in range(RETRIES + 1):
            try:
                response = await self._follow(Hop(url, authorization), deadline, max_body)
            except (UnavailableError, DeadlineError) as error:
                is_final = isinstance(error, CertificateError) or deadline.is_over()
                if attempt == RETRIES or is_final:
                    raise
                log.debug("registry request failed", extra={"url": url, "error": str(error)})
                await pause(attempt, None, deadline)
                continue
            if response.status not in RETRIED or attempt == RETRIES:
                return response
            await pause(attempt, response.headers.get("retry-after"), deadline)
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, hop: Hop, deadline: Deadline, max_body: int) -> HttpResponse:
        while True:
            response = await self._http.request(
                "GET",
                hop.url,
                headers=hop.headers({}),
                deadline=deadline.within(ATTEMPT),
                max_body=max_body,
            )
            if response.status not in REDIRECTS:
                return response
            hop.follow(response.headers)

    async def post_form(
        self, url: str, form: bytes, *, deadline: Deadline, max_body: int
    ) -> HttpResponse:
        """The answer to one POST of a form; neither redirected nor repeated.

        Raises:
            UnavailableError, DeadlineError, LimitError, PeerError: no answer.
        """
        return await self._http.request(
            "POST",
            url,
            headers=(("Content-Type", "application/x-www-form-urlencoded"),),
            body=form,
            deadline=deadline.within(ATTEMPT),
            max_body=max_body,
        )

    @asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        authorization: str | None,
        extra: Mapping[str, str],
        deadline: Deadline,
        idle: float,
    ) -> AsyncIterator[HttpStream]:
        """One attempt at a GET whose body is streamed, after redirects.

        Args:
            url: where to.
            authorization: value of the header.
            extra: further headers.
            deadline: for all of it.
            idle: seconds without a byte after which it fails.

        Raises:
            UnavailableError, DeadlineError, PeerError: as `get`.
        """
        hop = Hop(url, authorization)
        while True:
            async with self._http.stream(
                "GET", hop.url, headers=hop.headers(extra), deadline=deadline, idle=idle
            ) as stream:
                if stream.status not in REDIRECTS:
                    yield stream
                    return
                hop.follow(stream.headers)


@asynccontextmanager
async def closed_after(chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close a generator of chunks at the end of the block, also when it was left early."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def pause(attempt: int, retry_after: str | None, deadline: Deadline) -> None:
    """Wait before a further attempt.

    Raises:
        DeadlineError: the deadline comes before the attempt could.
    """
    seconds = FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    seconds = max(seconds, wanted_pause(retry_after, time.time()))
    if seconds >= deadline.remaining():
        raise DeadlineError("no time left to ask the registry again")
    await asyncio.sleep(seconds)


def wanted_pause(retry_after: str | None, now: float) -> float:
    """Seconds that `Retry-After` asks for, as a number or as a date; 0 where it asks nothing.

    Args:
        retry_after: value of the header.
        now: seconds since 1970, by the clock that the date is compared with.

    Source: RFC 9110 §10.2.3.
    """
    if not retry_after:
        return 0.0
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after[:6]), LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(retry_after).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, min(moment - now, LONGEST_PAUSE))
