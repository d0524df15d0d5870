"""One attestation over HTTP: `auth`, evidence, `attest`, and the session cookie between them.

Source: docs/spec/kbs-protocol.md sections 3 and 10; docs/spec/attestation-agent.md 5.2 and 5.4.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, PeerError, retold
from guest.kbs import messages
from guest.kbs.endpoints import Endpoints, Headers
from guest.kbs.handshake import Attesting, Challenged, Start
from guest.kbs.refusals import judge_handshake
from guest.secret import Secret
from guest.tee import Tee

_COOKIE: Final = re.compile(r"\s*kbs-session-id\s*=\s*\"?([!#-+\--:<-\[\]-~]{1,4096})\"?\s*(?:;|$)")

T = TypeVar("T")


class EvidenceSource(Protocol):
    """Who proves what this guest is; see `guest.kbs.client.EvidenceProvider`."""

    async def tee(self) -> Tee:
        """The primary TEE."""

    async def evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Primary evidence as compact JSON text."""

    async def additional_evidence(self, report_data: bytes, deadline: Deadline) -> str:
        """The devices' evidence as one JSON text; `""` without devices."""


class EvidenceError(Exception):
    """Carries an attester's error past the code that tries other addresses.

    Attributes:
        error: what the attester raised, its text extended.
    """

    def __init__(self, error: GuestError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What an attestation left.

    Attributes:
        url: base URL of the KBS that holds the session, the only one to see the cookie.
        cookie: of the session.
        token: of the attestation.
        key: the pair whose public half it carries.
    """

    url: str
    cookie: Secret
    token: Secret
    key: TeeKey

    def credentials(self, url: str) -> Headers:
        """Headers of a request to `url`: the token, and the cookie where it belongs."""
        bearer = ("Authorization", f"Bearer {self.token.reveal().decode('ascii')}")
        if url != self.url:
            return (bearer,)
        return (bearer, _cookie_header(self.cookie))


class Handshake:
    """Performs attestations, each with a key pair of its own that is never used again."""

    def __init__(
        self,
        endpoints: Endpoints,
        source: EvidenceSource,
        *,
        key_algorithm: TeeKeyAlgorithm,
        init_data: str | None,
        attest_headers: Callable[[], Headers] = tuple,
    ) -> None:
        """Keep the parts.

        Raises:
            UnsupportedError: keys of this algorithm cannot be made here.
        """
        if key_algorithm is TeeKeyAlgorithm.ML_KEM_768:
            TeeKey.generate(key_algorithm)
        self._endpoints = endpoints
        self._source = source
        self._algorithm = key_algorithm
        self._init_data = init_data
        self._attest_headers = attest_headers
        self._spare: asyncio.Future[TeeKey] | None = None

    async def perform(self, url: str, deadline: Deadline) -> Session:
        """Attest to one address, once.

        Raises:
            EvidenceError: an attester failed.
            PeerError: the KBS broke its protocol.
            UnauthenticatedError: it did not accept the evidence.
            UnsupportedError: it speaks another version.
            UnavailableError, DeadlineError: as the transport.
        """
        start = Start(tee=await _prove(self._source.tee()), init_data=self._init_data)
        answer, cookie = await self._post(
            url + messages.AUTH_PATH, (), start.body(), deadline, messages.MAX_CHALLENGE_LENGTH
        )
        if cookie is None:
            raise PeerError("KBS answered auth without a session cookie")
        key = await self._next_key()
        try:
            attesting = await self._gather(start.challenged(answer, key), deadline)
            answer, later = await self._post(
                url + messages.ATTEST_PATH,
                (_cookie_header(cookie), *self._attest_headers()),
                attesting.body(),
                deadline,
                messages.MAX_TOKEN_ANSWER_LENGTH,
            )
            token = attesting.token(answer)
        except DecodeError as error:
            raise PeerError(f"deserialize http response failed: {error}") from error
        return Session(url=url, cookie=later or cookie, token=token, key=key)

    async def _gather(self, state: Challenged, deadline: Deadline) -> Attesting:
        """Collect evidence: first the devices', since the primary evidence covers it."""
        source = self._source
        additional = await _prove(source.additional_evidence(state.report_data(), deadline))
        devices = state.devices_attested(additional)
        evidence = await _prove(source.evidence(devices.report_data(), deadline))
        return devices.primary_attested(evidence)

    async def _post(
        self, url: str, headers: Headers, body: bytes, deadline: Deadline, max_body: int
    ) -> tuple[bytes, Secret | None]:
        response = await self._endpoints.post(url, headers, body, deadline, max_body)
        if response.status != 200:
            raise judge_handshake(response.status, response.body).error
        return response.body, _find_cookie(response.headers.get("set-cookie", ""))

    async def _next_key(self) -> TeeKey:
        """Take the key made ahead and begin the next; EC keys cost nothing and are made now."""
        if self._algorithm is not TeeKeyAlgorithm.RSA:
            return TeeKey.generate(self._algorithm)
        ready, self._spare = self._spare or self._begin_key(), None
        key = await ready
        self._spare = self._begin_key()
        return key

    def _begin_key(self) -> "asyncio.Future[TeeKey]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, TeeKey.generate, self._algorithm)


async def _prove(step: Awaitable[T]) -> T:
    try:
        return await step
    except GuestError as error:
        text = f"Attestation Agent evidence provider error: get evidence failed: {error}"
        ours = retold(error, text)
        ours.__cause__ = error
        raise EvidenceError(ours) from error


def _cookie_header(cookie: Secret) -> tuple[str, str]:
    return ("Cookie", f"kbs-session-id={cookie.reveal().decode('ascii')}")


def _find_cookie(headers: str) -> Secret | None:
    """The session's value in `Set-Cookie` headers, one a line; what else they say is ignored."""
    for line in headers.split("\n"):
        found = _COOKIE.match(line)
        if found is not None:
            return Secret(found[1].encode("ascii"))
    return None
