"""The world around a KBS client: evidence of the sample TEE, token sources, deadlines."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guest.deadline import Deadline
from guest.http import HttpClient
from guest.kbs.client import EvidenceProvider, RcarClient, TokenPair
from guest.kbs.endpoints import USER_AGENT
from guest.tee import Tee


class SampleEvidence:
    """Proves to be a sample TEE, with devices if asked, and writes down what it was asked."""

    def __init__(self, *, devices: bool = False) -> None:
        self.devices = devices
        self.asked: list[tuple[str, bytes]] = []
        self.error: Exception | None = None

    async def tee(self) -> Tee:
        return Tee.SAMPLE

    async def evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.asked.append(("primary", report_data))
        if self.error is not None:
            raise self.error
        bound = base64.b64encode(report_data).decode()
        return json.dumps({"svn": "1", "report_data": bound}, separators=(",", ":")).encode()

    async def additional_evidence(self, report_data: bytes, deadline: Deadline) -> str:
        self.asked.append(("devices", report_data))
        if not self.devices:
            return ""
        bound = base64.b64encode(report_data).decode()
        return json.dumps({"sampledevice": {"svn": "2", "report_data": bound}})


class AttestingSource:
    """A token provider that attests, as AA does for CDH, through the answer's JSON."""

    def __init__(self, client: RcarClient) -> None:
        self.client = client
        self.calls = 0
        self.error: Exception | None = None
        self.next: list[TokenPair] = []

    async def fetch_token(self, deadline: Deadline) -> TokenPair:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.next:
            return self.next.pop(0)
        pair = await self.client.attest(deadline)
        with pair.encode() as encoded:
            return TokenPair.decode(encoded.reveal())


@asynccontextmanager
async def http_client(**arguments: object) -> AsyncIterator[HttpClient]:
    """An HTTP client as the daemons make it, closed at the end."""
    http = HttpClient(user_agent=USER_AGENT, **arguments)  # type: ignore[arg-type]  # as given
    try:
        yield http
    finally:
        await http.close()


@asynccontextmanager
async def rcar_client(
    *urls: str, evidence: EvidenceProvider | None = None, **arguments: object
) -> AsyncIterator[RcarClient]:
    """A client with sample evidence and a pool of its own."""
    async with http_client() as http:
        source = evidence or SampleEvidence()
        yield RcarClient(tuple(urls), http, source, **arguments)  # type: ignore[arg-type]  # as given


def soon(seconds: float = 30) -> Deadline:
    """A deadline that a working client never meets."""
    return Deadline.after(seconds)
