"""What the shim asks AA and CDH for, and how their failures read to a container.

Source: docs/spec/api-server-rest.md 3, 4 and 6; docs/spec/confidential-data-hub.md 12.5.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, TypeVar

import msgspec

from api_server_rest.config import RestConfig
from api_server_rest.injection import ResourceDocument, encode_prepared
from api_server_rest.query import Event
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, UnreachableError, UnsupportedError
from guest.protos import aa_pb2, cdh_pb2
from guest.protos.injection import COMMIT, PREPARE
from guest.protos.methods import (
    EXTEND_RUNTIME_MEASUREMENT,
    GET_ADDITIONAL_EVIDENCE,
    GET_ADDITIONAL_TEES,
    GET_EVIDENCE,
    GET_RESOURCE,
    GET_TEE_TYPE,
    GET_TOKEN,
)
from guest.rpc.method import Channel, Metadata, Method, Q, R
from guest.single_flight import SingleFlight

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKEND_SECONDS: Final = 50.0
"""Seconds that AA or CDH has for one call; the channel adds a second for its own answer."""

MAX_ATTESTATIONS: Final = 4
"""Calls under way at a time that make AA attest."""

REQUEST_FAILED: Final = "ttrpc request error"

VERSION_PREFIX: Final = "Guest Components Version: "

AAEL_ANSWERS: Final = {
    aa_pb2.OK: b'{"success":"true"}',
    aa_pb2.NOT_SUPPORTED: b'{"success":"false",'
    b'"message": "The platform does not support runtime measurement"}',
    aa_pb2.NOT_ENABLED: b'{"success":"false",'
    b'"message": "Attestation Agent does not enable eventlog recording"}',
}
AAEL_UNKNOWN: Final = b'{"success":"false","message": "Unknown runtime measurement result"}'


class BackendError(GuestError):
    """A backend failed.

    Attributes:
        reason: short machine-readable name of the cause.
    """

    code = "backend"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class UnusableChannel:
    """A channel whose address cannot be used; found out at the first call, as a dead one is."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def call(
        self, method: Method[Q, R], request: Q, *, deadline: Deadline, metadata: Metadata = ()
    ) -> R:
        """Fail.

        Raises:
            UnreachableError: always.
        """
        raise UnreachableError(f"address {self.address[:200]} cannot be used")

    async def close(self) -> None:
        """Nothing to close."""


class Backends:
    """AA and CDH, as containers may use them; any number of calls at a time.

    Nothing is kept and nothing of AA is shared between callers: a token is one container's.

    Args:
        config: what is served and where the backends are.
        aa: leads to AA.
        cdh: leads to CDH.
    """

    def __init__(self, config: RestConfig, aa: Channel, cdh: Channel) -> None:
        self._config = config
        self._aa = aa
        self._cdh = cdh
        self._attestations = asyncio.Semaphore(MAX_ATTESTATIONS)
        self._resources: SingleFlight[bytes] = SingleFlight()

    async def info(self) -> bytes:
        """The JSON of `/info`.

        Raises:
            BackendError: AA failed.
        """
        members: dict[str, object] = {"version": VERSION_PREFIX + self._config.version}
        if self._config.feature.has_aa:
            deadline = Deadline.after(BACKEND_SECONDS)
            tee = await self._ask_aa(
                self._aa.call(GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=deadline)
            )
            more = await self._ask_aa(self._additional_tees(deadline))
            members["tee"] = tee.tee
            if more:
                members["additional_tees"] = more
        members["feature"] = self._config.feature.value
        return msgspec.json.encode(members)

    async def _additional_tees(self, deadline: Deadline) -> list[str]:
        """None where the agent is from before there were any."""
        request = aa_pb2.GetAdditionalTeesRequest()
        try:
            found = await self._aa.call(GET_ADDITIONAL_TEES, request, deadline=deadline)
        except UnsupportedError:
            return []
        return list(found.additional_tees)

    async def token(self, token_type: str) -> bytes:
        """A new token, as AA gives it.

        Raises:
            BackendError: AA failed.
        """
        request = aa_pb2.GetTokenRequest(TokenType=token_type)
        return (await self._attest(GET_TOKEN, request)).Token

    async def evidence(self, runtime_data: bytes) -> bytes:
        """Evidence of the primary TEE that binds the data, as AA gives it.

        Raises:
            BackendError: AA failed.
        """
        request = aa_pb2.GetEvidenceRequest(RuntimeData=runtime_data)
        return (await self._attest(GET_EVIDENCE, request)).Evidence

    async def additional_evidence(self, runtime_data: bytes) -> bytes:
        """The devices' evidence that binds the data, as AA gives it.

        Raises:
            BackendError: AA failed.
        """
        request = aa_pb2.GetAdditionalEvidenceRequest(RuntimeData=runtime_data)
        return (await self._attest(GET_ADDITIONAL_EVIDENCE, request)).Evidence

    async def extend(self, event: Event) -> bytes:
        """Record an event; the JSON that says what became of it.

        Raises:
            BackendError: AA failed.
        """
        request = aa_pb2.ExtendRuntimeMeasurementRequest(
            Domain=event.domain, Operation=event.operation, Content=event.content
        )
        deadline = Deadline.after(BACKEND_SECONDS)
        response = await self._ask_aa(
            self._aa.call(EXTEND_RUNTIME_MEASUREMENT, request, deadline=deadline)
        )
        return AAEL_ANSWERS.get(response.Result, AAEL_UNKNOWN)

    async def resource(self, path: str) -> bytes:
        """A resource; callers who ask for one path at the same time share one call.

        Args:
            path: led by a slash, as it was sent.

        Raises:
            BackendError: CDH failed.
        """
        return await self._resources.run(path, lambda: self._fetch(path))

    async def prepare(self, path: str, nonce: str) -> bytes:
        """Begin a session for a resource that is pushed; the JSON that says how to encrypt it.

        Args:
            path: where the hub will put it, as it was sent.
            nonce: what evidence binds besides the session's key.

        Raises:
            BackendError: CDH failed, or refused.
        """
        request = cdh_pb2.PrepareResourceInjectionRequest(ResourcePath=path, Nonce=nonce)
        prepared = await self._ask_cdh(PREPARE, request)
        try:
            return encode_prepared(prepared)
        except DecodeError as error:
            raise BackendError(REQUEST_FAILED, error.code) from error

    async def commit(self, path: str, document: ResourceDocument) -> None:
        """End a session: hand in what was encrypted to its key.

        Raises:
            BackendError: CDH failed, or refused.
        """
        request = cdh_pb2.CommitResourceInjectionRequest(
            SessionId=document.session_id,
            ResourcePath=path,
            EncryptedResource=bytes(document.encrypted_resource),
        )
        await self._ask_cdh(COMMIT, request)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._aa.close()
        await self._cdh.close()

    async def _fetch(self, path: str) -> bytes:
        request = cdh_pb2.GetResourceRequest(ResourcePath=f"kbs://{path}")
        return (await self._ask_cdh(GET_RESOURCE, request)).Resource

    async def _ask_cdh(self, method: Method[Q, R], request: Q) -> R:
        deadline = Deadline.after(BACKEND_SECONDS)
        connect = f"ttrpc connect to CDH addr: {self._config.cdh_address} failed"
        return await _ask(self._cdh.call(method, request, deadline=deadline), connect)

    async def _attest(self, method: Method[Q, R], request: Q) -> R:
        deadline = Deadline.after(BACKEND_SECONDS)

        async def work() -> R:
            async with deadline.limit("earlier attestations"):
                await self._attestations.acquire()
            try:
                return await self._aa.call(method, request, deadline=deadline)
            finally:
                self._attestations.release()

        return await self._ask_aa(work())

    async def _ask_aa(self, work: Awaitable[T]) -> T:
        address = self._config.aa_address
        return await _ask(work, f"ttrpc connect to Attestation Agent addr: {address} failed")


async def _ask(work: Awaitable[T], connect_text: str) -> T:
    try:
        return await work
    except GuestError as error:
        text = connect_text if isinstance(error, UnreachableError) else REQUEST_FAILED
        raise BackendError(text, error.code) from error
