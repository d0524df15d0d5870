"""Clients of a KBS: `RcarClient` attests itself, `TokenClient` has tokens from somebody else.

A token and its key are one immutable value, and a request opens its answer with the key whose
token it sent, also while the pair is being replaced.

Source: docs/spec/kbs-protocol.md sections 1, 7 and 10; docs/ARCHITECTURE.md, decision 3.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from guest.crypto.jose import open_jwe
from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.errors import (
    DecodeError,
    GuestError,
    IntegrityError,
    PeerError,
    UnauthenticatedError,
    UnavailableError,
    retold,
)
from guest.http import CertificateError, HttpClient, HttpResponse
from guest.kbs import messages
from guest.kbs.endpoints import Endpoints, Headers
from guest.kbs.lease import Lease, wall_seconds
from guest.kbs.rcar import EvidenceError, Handshake, Session
from guest.kbs.refusals import Remedy, judge_resource
from guest.kbs.token import TokenTimes
from guest.resource_uri import ResourceUri
from guest.retry import Backoff
from guest.secret import Secret
from guest.single_flight import SingleFlight
from guest.tee import Tee

log = logging.getLogger(__name__)

HANDSHAKE_BACKOFF: Final = Backoff(first=1.0, most=8.0, jitter=0.3, attempts=5)
REFRESH_BACKOFF: Final = Backoff(first=1.0, most=15.0, attempts=1_000_000)

SHARED_LIMIT: Final = 50.0
"""Seconds for an attestation or a token that several callers wait for."""

LONGEST_SLEEP: Final = 30.0
"""Seconds after which the refresher looks at the boot clock again: sleep misses suspension."""

OPEN_ON_LOOP: Final = 64 * 1024
"""Bytes of the longest answer that is opened on the event loop."""


class EvidenceProvider(Protocol):
    """Who proves what this guest is: AA's attesters, or AA itself for a tool."""

    async def tee(self) -> Tee:
        """The primary TEE."""

    async def evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Primary evidence that binds `report_data`, as compact JSON text."""

    async def additional_evidence(self, report_data: bytes, deadline: Deadline) -> str:
        """The devices' evidence that binds `report_data`, one JSON text; `""` without devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """A token and the private key whose public half it carries.

    Attributes:
        token: printable ASCII.
        key: opens what the KBS sends for that token.
        expires_in: seconds of use from receipt; None if the token does not say.
    """

    token: Secret
    key: TeeKey
    expires_in: float | None = None

    @classmethod
    def of(cls, token: Secret, key: TeeKey) -> "TokenPair":
        """Pair a token that was just received with its key.

        Raises:
            DecodeError: the token is not a JWT.
        """
        life = TokenTimes.decode(token).life(wall_seconds())
        return cls(token=token, key=key, expires_in=life)

    @classmethod
    def decode(cls, data: bytes) -> "TokenPair":
        """Read what AA answers to `GetToken("kbs")`, just received.

        Raises:
            DecodeError: not such an answer.
        """
        token, pem = messages.decode_token_pair(data)
        with pem:
            return cls.of(token, TeeKey.from_pem(pem))

    def encode(self) -> Secret:
        """The answer to `GetToken("kbs")`: `{"token":...,"tee_keypair":...}`."""
        with self.key.to_pem() as pem:
            return messages.encode_token_pair(self.token, pem)


class TokenProvider(Protocol):
    """Who attests for a `TokenClient`."""

    async def fetch_token(self, deadline: Deadline) -> TokenPair:
        """A new token and key."""


class RcarClient:
    """Attests with its own evidence (background check)."""

    def __init__(
        self,
        endpoints: tuple[str, ...],
        http: HttpClient,
        evidence: EvidenceProvider,
        *,
        key_algorithm: TeeKeyAlgorithm = TeeKeyAlgorithm.EC_P256,
        init_data: str | None = None,
        api_key: str | None = None,
        attest_headers: Callable[[], Headers] = tuple,
    ) -> None:
        """Check the arguments; nothing is sent yet.

        Args:
            endpoints: base URLs of one Trustee, the first preferred.
            http: shared pool; made with `USER_AGENT` of `guest.kbs.endpoints`.
            evidence: who proves what this guest is.
            key_algorithm: of the key pairs.
            init_data: the init data document's text for the verifier, or None.
            api_key: of a gateway before the Trustee.
            attest_headers: what `attest` requests carry besides.

        Raises:
            ConfigError: a URL is not usable.
            UnsupportedError: ML-KEM keys, where a library for them is missing.
        """
        self._endpoints = Endpoints(endpoints, http, api_key=api_key)
        self._handshake = Handshake(
            self._endpoints,
            evidence,
            key_algorithm=key_algorithm,
            init_data=init_data,
            attest_headers=attest_headers,
        )
        self._session: Session | None = None
        self._sharing: SingleFlight[Session] = SingleFlight()

    async def attest(self, deadline: Deadline) -> TokenPair:
        """Attest anew, with a key of its own; nothing is shared with other calls.

        Raises:
            UnauthenticatedError: the KBS did not accept the evidence, also not a second time.
            UnsupportedError: the KBS speaks another version of the protocol.
            PeerError: the KBS broke its protocol.
            UnavailableError, DeadlineError: the KBS could not be reached in time.
            GuestError: what an attester raised.
        """
        session = await self._attest(deadline)
        try:
            return TokenPair.of(session.token, session.key)
        except DecodeError as error:
            raise PeerError(f"RCAR handshake failed: {error}") from error

    async def fetch_resource(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """Fetch a resource over one session that all calls share.

        Raises:
            DeniedError: a policy said no; NotFoundError: there is no such thing.
            GuestError: as `attest`, and `IntegrityError` for an answer to another key.
        """
        session = self._session or await self._renew(None, deadline)
        response = await self._get(uri, session, deadline)
        if _wants_attestation(response):
            session = await self._renew(session, deadline)
            response = await self._get(uri, session, deadline)
        return await _open_answer(response, session.key)

    async def _get(self, uri: ResourceUri, session: Session, deadline: Deadline) -> HttpResponse:
        return await self._endpoints.get_resource(uri.kbs_path(), session.credentials, deadline)

    async def _renew(self, used: Session | None, deadline: Deadline) -> Session:
        """Give a session that is not `used`: somebody's, or one that all callers wait for."""
        if self._session is not used and self._session is not None:
            return self._session
        async with deadline.limit("attestation"):
            return await self._sharing.run("session", self._begin_session)

    async def _begin_session(self) -> Session:
        self._session = await self._attest(Deadline.after(SHARED_LIMIT))
        return self._session

    async def _attest(self, deadline: Deadline) -> Session:
        attempt = 1
        may_refuse = True
        failure: GuestError
        while True:
            try:
                return await self._endpoints.one_round(self._handshake.perform, deadline)
            except EvidenceError as carrier:
                raise carrier.error from carrier.error.__cause__
            except UnauthenticatedError as error:
                failure, may_retry = error, may_refuse
                may_refuse = False
            except UnavailableError as error:
                failure, may_retry = error, not isinstance(error, CertificateError)
            except GuestError as error:
                raise retold(error, f"RCAR handshake failed: {error}") from error
            if not may_retry or not await HANDSHAKE_BACKOFF.pause(attempt, deadline):
                raise retold(
                    failure,
                    "RCAR handshake failed: Unable to get token. RCAR handshake retried "
                    f"{attempt} times. Final attempt failed with: {failure}",
                ) from failure
            attempt += 1


class TokenClient:
    """Fetches resources with a bearer token (passport).

    One pair serves all requests; one call to the provider serves all who wait for a pair.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        http: HttpClient,
        tokens: TokenProvider,
        *,
        api_key: str | None = None,
    ) -> None:
        """Check the arguments; nothing is sent yet.

        Args:
            endpoints: base URLs of one Trustee, the first preferred.
            http: shared pool.
            tokens: who attests.
            api_key: of a gateway before the Trustee.

        Raises:
            ConfigError: a URL is not usable.
        """
        self._endpoints = Endpoints(endpoints, http, api_key=api_key)
        self._tokens = tokens
        self._lease: Lease[TokenPair] | None = None
        self._leased = asyncio.Event()
        self._sharing: SingleFlight[Lease[TokenPair]] = SingleFlight()

    async def fetch_resource(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """Fetch a resource; a refused token is replaced once.

        Raises:
            DeniedError: a policy said no, which is final.
            NotFoundError: there is no such thing, as far as the KBS tells.
            UnauthenticatedError: no token that the KBS accepts could be had.
            IntegrityError: the answer is for another key, or was changed.
            PeerError, LimitError: the KBS broke its protocol, or answered too long.
            UnavailableError, DeadlineError: it could not be reached in time.
        """
        lease = self._lease
        may_refresh = True
        if lease is None or lease.is_over():
            lease = await self._renew(lease, deadline)
        elif lease.is_doubted:
            lease, may_refresh = await self._renew(lease, deadline), False
        response = await self._get(uri, lease, deadline)
        if may_refresh and _wants_attestation(response):
            lease = await self._renew(lease, deadline)
            response = await self._get(uri, lease, deadline)
        return await _open_answer(response, lease.value.key)

    async def run(self, stop: asyncio.Event) -> None:
        """Replace the pair in the background before its end, until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            refresher = group.create_task(self._refresh_forever(), name="token refresh")
            await stop.wait()
            refresher.cancel()

    async def close(self) -> None:
        """Forget the pair; requests under way keep theirs."""
        self._lease = None
        self._leased.clear()

    async def _get(
        self, uri: ResourceUri, lease: Lease[TokenPair], deadline: Deadline
    ) -> HttpResponse:
        bearer = ("Authorization", f"Bearer {lease.value.token.reveal().decode('ascii')}")
        return await self._endpoints.get_resource(uri.kbs_path(), lambda _: (bearer,), deadline)

    async def _renew(self, used: Lease[TokenPair] | None, deadline: Deadline) -> Lease[TokenPair]:
        """Give a pair that is not `used`: somebody's, or one that all callers wait for."""
        current = self._lease
        if current is not None and current is not used and not current.is_over():
            return current
        async with deadline.limit("a KBS token"):
            return await self._sharing.run("token", self._acquire)

    async def _acquire(self) -> Lease[TokenPair]:
        previous = self._lease
        try:
            pair = await self._tokens.fetch_token(Deadline.after(SHARED_LIMIT))
            if not len(pair.token):
                raise UnauthenticatedError("the answer has no token")
            is_valid = TokenTimes.decode(pair.token).is_valid_at(wall_seconds())
        except DecodeError as error:
            raise PeerError(f"get token failed: {error}") from error
        except GuestError as error:
            raise retold(error, f"get token failed: {error}") from error
        was_doubted = previous is not None and previous.is_doubted
        lease = Lease.begin(pair, pair.expires_in, is_doubted=not is_valid and not was_doubted)
        self._lease = lease
        self._leased.set()
        return lease

    async def _refresh_forever(self) -> None:
        failures = 0
        while True:
            await self._leased.wait()
            lease = self._lease
            if lease is None or lease.is_over():
                self._leased.clear()
                continue
            wait = lease.until_refresh()
            if wait > 0:
                await asyncio.sleep(min(wait, LONGEST_SLEEP))
                continue
            try:
                await self._sharing.run("token", self._acquire)
                failures = 0
            except GuestError as error:
                failures += 1
                log.warning("token refresh failed", extra={"causes": error.causes()})
                await asyncio.sleep(REFRESH_BACKOFF.delay(min(failures, 8)))


def _wants_attestation(response: HttpResponse) -> bool:
    if response.status == 200:
        return False
    return judge_resource(response.status, response.body).remedy is Remedy.ATTEST


async def _open_answer(response: HttpResponse, key: TeeKey) -> Secret:
    if response.status != 200:
        raise judge_resource(response.status, response.body).error
    try:
        if len(response.body) > OPEN_ON_LOOP:
            return await asyncio.to_thread(open_jwe, response.body, key)
        return open_jwe(response.body, key)
    except DecodeError as error:
        raise PeerError(f"decrypt KBS response body failed: {error}") from error
    except IntegrityError as error:
        raise IntegrityError(f"decrypt KBS response body failed: {error}") from error
