"""Azure's instance metadata service, as far as attestation asks it: no proxy, ever.

Source: docs/spec/attesters.md 7.2 and 8.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from attestation_agent.reports.azure import (
    MAX_ANSWER_BYTES,
    decode_certification,
    decode_quote_answer,
    encode_quote_request,
)
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, PeerError, UnavailableError
from guest.http import HttpClient, HttpResponse
from guest.proxies import Proxies
from guest.retry import Backoff, retry
from guest.version import VERSION

T = TypeVar("T")

QUOTE_PATH: Final = "/acc/tdquote"
CERTIFICATION_PATH: Final = "/metadata/THIM/amd/certification"

REQUEST_SECONDS: Final = 30.0
"""Most seconds of one request."""

TRANSIENT: Final = (408, 429)
BACKOFF: Final = Backoff(first=0.5, most=5.0, attempts=6)
HEADER: Final = ("Metadata", "true")


class AzureMetadata:
    """The service of this machine; a connection is made for each question."""

    def __init__(self, service: str) -> None:
        """Connect to nothing; `service` is scheme and host."""
        self._service = service.rstrip("/")

    async def td_quote(self, td_report: bytes, deadline: Deadline) -> bytes:
        """What the quoting enclave of the host makes of a TDREPORT.

        Raises:
            PeerError: the service refuses, or answers something else.
            UnavailableError: it cannot be reached, or has no time.
            DeadlineError: it takes longer than there is time.
        """
        for url_alphabet in (False, True):
            body = encode_quote_request(td_report, url_alphabet=url_alphabet)
            response = await self._ask("POST", QUOTE_PATH, body, deadline)
            if response.status != 400:
                break
        return self._read(response, QUOTE_PATH, decode_quote_answer)

    async def vcek(self, deadline: Deadline) -> bytes:
        """The certificate of this machine's chip, DER.

        Raises:
            GuestError: as `td_quote`.
        """
        response = await self._ask("GET", CERTIFICATION_PATH, None, deadline)
        return self._read(response, CERTIFICATION_PATH, decode_certification)

    async def _ask(
        self, method: str, path: str, body: bytes | None, deadline: Deadline
    ) -> HttpResponse:
        headers = (HEADER,) if body is None else (HEADER, ("Content-Type", "application/json"))
        client = HttpClient(user_agent=f"coco-guest/{VERSION}", proxies=Proxies(), pool_size=1)

        async def once() -> HttpResponse:
            response = await client.request(
                method,
                self._service + path,
                headers=headers,
                body=body,
                deadline=deadline.within(REQUEST_SECONDS),
                max_body=MAX_ANSWER_BYTES,
            )
            if response.status in TRANSIENT or response.status >= 500:
                raise UnavailableError(f"{self._service}{path} answers {response.status}")
            return response

        try:
            return await retry(once, deadline=deadline, is_transient=_is_transient, backoff=BACKOFF)
        finally:
            await client.close()

    def _read(self, response: HttpResponse, path: str, decode: Callable[[bytes], T]) -> T:
        if response.status != 200:
            raise PeerError(f"{self._service}{path} answers {response.status}")
        try:
            return decode(response.body)
        except DecodeError as error:
            raise PeerError(f"{self._service}{path} gave no answer that can be used") from error


def _is_transient(error: GuestError) -> bool:
    return isinstance(error, UnavailableError)
