"""Tokens of a CoCo attestation service that is asked directly, without a KBS.

By default the exchange is the original's: evidence that binds nothing, so that a token says which
guest it is for but not when. With `bind_nonce` the evidence is fresh, and what cannot be bound
gets no token.

Source: docs/spec/attestation-agent.md 5.3 and 5.4.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from attestation_agent.collector import EvidenceCollector
from attestation_agent.config import CocoAsConfig
from attestation_agent.tokens import as_messages
from guest.base_url import base_url
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DecodeError,
    PeerError,
    UnavailableError,
    UnsupportedError,
    retold,
)
from guest.http import HttpClient, is_transient
from guest.proxies import Proxies
from guest.retry import Backoff, retry
from guest.secret import Secret
from guest.tee import Tee
from guest.version import VERSION

USER_AGENT: Final = f"attestation-agent/{VERSION}"

BACKOFF: Final = Backoff(first=0.5, most=4.0, attempts=5)

TRANSIENT: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may go better; 500 is how a service says no."""

T = TypeVar("T")


class CocoAsTokens:
    """Asks one attestation service over one pool of connections."""

    def __init__(
        self,
        config: CocoAsConfig,
        evidence: EvidenceCollector,
        *,
        init_data: str | None,
        proxies: Proxies,
        headers: Callable[[], tuple[tuple[str, str], ...]] = tuple,
    ) -> None:
        """Check the parts; nothing is sent yet.

        Raises:
            ConfigError: the URL, the certificate or a proxy is not usable.
        """
        roots = () if config.cert is None else (config.cert,)
        self._url = base_url(config.url, "token_configs.coco_as.url")
        self._http = HttpClient(user_agent=USER_AGENT, extra_roots=roots, proxies=proxies)
        self._config = config
        self._evidence = evidence
        self._init_data = init_data
        key = () if config.api_key is None else (("Authorization", f"Bearer {config.api_key}"),)
        self._headers = (("Content-Type", "application/json"), *key)
        self._more = headers

    async def fetch(self, deadline: Deadline, additional_data: str | None = None) -> Secret:
        """The body of the service's answer, byte for byte.

        Args:
            deadline: for all of it.
            additional_data: passed on where the configuration says so, else dropped.

        Raises:
            PeerError: the service refused, and what it said; or broke its protocol.
            UnavailableError: it could not be reached, also not later.
            UnsupportedError: a nonce cannot be bound on this TEE.
            DeadlineError: not done in time.
            GuestError: what an attester raised.
        """
        if not self._config.additional_data:
            additional_data = None
        body = await self._request_body(deadline, additional_data)
        return await self._ask(
            as_messages.ATTESTATION_PATH, body, as_messages.decode_token, deadline
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._http.close()

    async def _request_body(self, deadline: Deadline, additional_data: str | None) -> bytes:
        tee, policy_ids = await self._evidence.tee(), self._config.policy_ids
        if not self._config.bind_nonce:
            evidence = await self._evidence.evidence(b"", deadline)
            return as_messages.encode_request(
                tee, evidence, policy_ids, additional_data=additional_data
            )
        if tee is Tee.SE:
            # Its report data is a document that the verifier makes, not a digest.
            raise UnsupportedError(f"coco_as: bind_nonce is not supported on {tee}")
        request = as_messages.encode_challenge_request(tee)
        nonce, bound = await self._ask(
            as_messages.CHALLENGE_PATH, request, _decode_challenge, deadline
        )
        evidence = await self._evidence.evidence(bound, deadline)
        return as_messages.encode_bound_request(
            tee,
            evidence,
            policy_ids,
            nonce=nonce,
            init_data=self._init_data,
            additional_data=additional_data,
        )

    async def _ask(
        self, path: str, body: bytes, decode: Callable[[bytes], T], deadline: Deadline
    ) -> T:
        """POST until there is an answer that waiting would not change, and read it."""
        url = self._url + path
        attempts = 0

        def attempt() -> Awaitable[bytes]:
            nonlocal attempts
            attempts += 1
            return self._post(url, body, deadline)

        try:
            answer = await retry(
                attempt, deadline=deadline, is_transient=is_transient, backoff=BACKOFF
            )
        except UnavailableError as error:
            tried = f"attestation service not available, asked {attempts} times: {error}"
            raise retold(error, tried) from error.__cause__
        try:
            return decode(answer)
        except DecodeError as error:
            raise PeerError(f"attestation service: the answer to {path} is unusable") from error

    async def _post(self, url: str, body: bytes, deadline: Deadline) -> bytes:
        limit = self._config.timeout
        share = deadline if limit is None else deadline.within(limit)
        try:
            response = await self._http.request(
                "POST",
                url,
                headers=(*self._headers, *self._more()),
                body=body,
                deadline=share,
                max_body=as_messages.MAX_TOKEN_LENGTH,
            )
        except DeadlineError as error:
            if deadline.is_over():
                raise
            raise UnavailableError(f"no answer in {limit:g} s") from error
        if response.status == 200:
            return response.body
        said = as_messages.refusal(response.status, response.body)
        raise UnavailableError(said) if response.status in TRANSIENT else PeerError(said)


def _decode_challenge(body: bytes) -> tuple[str, bytes]:
    """The nonce and the report data that binds it."""
    nonce = as_messages.decode_nonce(body)
    return nonce, as_messages.report_data(nonce)
