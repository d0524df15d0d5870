"""Temporary access keys from the metadata server and the security token service.

The metadata server is the host's: what it gives authorises towards the cloud and proves nothing.

Source: docs/spec/confidential-data-hub.md 8.4, 8.5 and 12.3.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cdh.kms.aliyun import openapi
from cdh.kms.aliyun.openapi import AccessKey, ApiRequest
from cdh.kms.answers import TRANSIENT_STATUSES
from cdh.kms.calls import repeated
from cdh.kms.site import KmsSite
from guest.deadline import Deadline
from guest.errors import GuestError, NotFoundError, PeerError, UnavailableError
from guest.http import HttpClient, HttpResponse
from guest.single_flight import SingleFlight

METADATA_SECONDS: Final = 1.0
"""Seconds for one request to the metadata server."""

METADATA_TOKEN_SECONDS: Final = 300
"""Seconds that a token of the metadata server lives."""

MAX_METADATA_LENGTH: Final = 64 * 1024

MAX_TOKEN_LENGTH: Final = 4096

EARLY_SECONDS: Final = 300.0
"""Seconds before its end at which an access key is used no more."""

ISSUE_SECONDS: Final = 15.0
"""Most seconds for one access key that several calls wait for."""

MAX_KEPT: Final = 16
"""Most access keys that are kept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    key: AccessKey
    until: Deadline


class AccessKeys:
    """Access keys that are used until shortly before they end; one of a kind is asked for once."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._flights: SingleFlight[AccessKey] = SingleFlight()

    async def get(
        self, name: str, issue: Callable[[Deadline], Awaitable[AccessKey]], deadline: Deadline
    ) -> AccessKey:
        """The kept key of this name, or a new one.

        Args:
            name: everything that the key depends on; no secret.
            issue: asks for a new one.
            deadline: of this caller.

        Raises:
            GuestError: as `issue` says.
        """
        kept = self._kept.get(name)
        if kept is not None and not kept.until.is_over():
            return kept.key
        async with deadline.limit("an access key"):
            key = await self._flights.run(name, lambda: issue(Deadline.after(ISSUE_SECONDS)))
        self._keep(name, key)
        return key

    def forget(self, name: str, key: AccessKey) -> bool:
        """Drop a kept key that was refused; whether it was a kept one."""
        kept = self._kept.get(name)
        if kept is None or kept.key is not key:
            return False
        del self._kept[name]
        return True

    def _keep(self, name: str, key: AccessKey) -> None:
        if key.expires is None:
            return
        seconds = (key.expires - datetime.now(UTC)).total_seconds() - EARLY_SECONDS
        if seconds <= 0:
            return
        self._kept.pop(name, None)
        while len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = _Kept(key, Deadline.after(seconds))


async def fetch_role_key(site: KmsSite, role_name: str, deadline: Deadline) -> AccessKey:
    """The access key of this machine's role.

    Args:
        site: names the metadata server.
        role_name: verified.
        deadline: for all of it.

    Raises:
        NotFoundError: the machine has no such role.
        GuestError: the metadata server cannot be reached or answers otherwise than it should.
    """
    base = site.config.kms.aliyun.metadata_url.rstrip("/")
    url = f"{base}/latest/meta-data/ram/security-credentials/{role_name}"
    async with site.http(deadline, direct=True, connect_limit=METADATA_SECONDS) as http:
        token = await _metadata_token(http, base, deadline)
        headers = () if token is None else (("X-aliyun-ecs-metadata-token", token),)
        answer = await http.request(
            "GET",
            url,
            headers=headers,
            deadline=deadline.within(METADATA_SECONDS),
            max_body=MAX_METADATA_LENGTH,
        )
    if not 200 <= answer.status < 300:
        text = f"Request session_credential failed with status: {answer.status}"
        raise _metadata_error(answer, text)
    return openapi.decode_role_key(answer.body)


async def _metadata_token(http: HttpClient, base: str, deadline: Deadline) -> str | None:
    """A token for the next request, or None where the server knows no tokens."""
    answer = await http.request(
        "PUT",
        f"{base}/latest/api/token",
        headers=(("X-aliyun-ecs-metadata-token-ttl-seconds", str(METADATA_TOKEN_SECONDS)),),
        deadline=deadline.within(METADATA_SECONDS),
        max_body=MAX_TOKEN_LENGTH,
    )
    if answer.status == 404:
        return None
    if not 200 <= answer.status < 300:
        raise _metadata_error(answer, f"metadata token failed with status: {answer.status}")
    token = answer.body.strip()
    if not token or not token.isascii() or not token.decode("ascii").isprintable():
        raise PeerError("metadata token is not printable ASCII")
    return token.decode("ascii")


def _metadata_error(answer: HttpResponse, text: str) -> GuestError:
    if answer.status == 404:
        return NotFoundError(text)
    if answer.status in TRANSIENT_STATUSES:
        return UnavailableError(text)
    return PeerError(text)


async def assume_role(site: KmsSite, request: ApiRequest, deadline: Deadline) -> AccessKey:
    """The access key of a role that an identity token may assume.

    Raises:
        GuestError: the service cannot be reached, or refused.
    """
    roots = site.config.kms.aliyun.extra_root_certificates
    async with site.http(deadline, roots=roots) as http:

        async def attempt() -> AccessKey:
            answer = await http.request(
                "POST",
                request.url.reveal().decode("ascii"),
                headers=request.headers,
                deadline=deadline,
                max_body=openapi.MAX_ANSWER_LENGTH,
            )
            return openapi.decode_assumed_role(answer.status, answer.body)

        return await repeated(attempt, deadline)
