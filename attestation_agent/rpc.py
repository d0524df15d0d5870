"""The attestation agent's methods on the wire: requests in, responses out.

Source: docs/spec/attestation-agent.md 3 and 4, the table of texts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from attestation_agent.agent import Agent, Measured
from attestation_agent.turn import on_behalf_of
from guest.errors import GuestError
from guest.protos import aa_pb2, methods
from guest.rpc.method import CallContext, Routes
from guest.rpc.status import StatusError, status_of

PREFIX: Final = "[ERROR:attestation-agent] "

MAX_CAUSE: Final = 1000
"""Longest cause behind a text, in characters."""

_RESULTS: Final = {
    Measured.DONE: aa_pb2.OK,
    Measured.NOT_SUPPORTED: aa_pb2.NOT_SUPPORTED,
    Measured.NOT_ENABLED: aa_pb2.NOT_ENABLED,
}


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """What a failed call says first, per method; the cause follows.

    Somebody matches these: they never change.
    """

    token: str
    evidence: str
    additional_evidence: str
    tee: str
    additional_tees: str
    extend: str = f"{PREFIX}AA extend runtime measurement failed"
    bind: str = f"{PREFIX}AA binding init data failed"


TTRPC_TEXTS: Final = Texts(
    token=f"{PREFIX}AA-KBC get token failed",
    evidence=f"{PREFIX}AA-KBC get evidence failed",
    additional_evidence=f"{PREFIX}AA-KBC get evidence failed",
    tee=f"{PREFIX}AA-KBC get tee type failed",
    additional_tees=f"{PREFIX}AA-KBC get tee type failed",
)

GRPC_TEXTS: Final = Texts(
    token=f"{PREFIX}AA get token failed",
    evidence=f"{PREFIX}AA get evidence failed",
    additional_evidence=f"{PREFIX}AA get additional evidence failed",
    tee=f"{PREFIX}AA get tee type failed",
    additional_tees=f"{PREFIX}AA get additional tees failed",
)


class AgentEdge:
    """Serves an `Agent`."""

    def __init__(self, agent: Agent, *, grpc: bool = False, exact_status: bool = False) -> None:
        """Serve `agent`.

        Args:
            agent: what is served.
            grpc: with the texts of the gRPC build, which alone serves `BindInitData`.
            exact_status: failures carry their exact status instead of INTERNAL.
        """
        self._agent = agent
        self._grpc = grpc
        self._texts = GRPC_TEXTS if grpc else TTRPC_TEXTS
        self._exact_status = exact_status

    def routes(self) -> Routes:
        """All methods of the service."""
        routes = Routes()
        routes.bind(methods.GET_EVIDENCE, self._get_evidence)
        routes.bind(methods.GET_ADDITIONAL_EVIDENCE, self._get_additional_evidence)
        routes.bind(methods.GET_TOKEN, self._get_token)
        routes.bind(methods.EXTEND_RUNTIME_MEASUREMENT, self._extend)
        routes.bind(methods.GET_TEE_TYPE, self._get_tee_type)
        routes.bind(methods.GET_ADDITIONAL_TEES, self._get_additional_tees)
        if self._grpc:
            routes.bind(methods.BIND_INIT_DATA, self._bind_init_data)
        else:
            # Compat: the ttRPC build declares the method and does not serve it; on a TPM platform
            # any local caller could otherwise spoil PCR 8.
            routes.declare(methods.BIND_INIT_DATA)
        return routes

    async def _get_evidence(
        self, request: aa_pb2.GetEvidenceRequest, context: CallContext
    ) -> aa_pb2.GetEvidenceResponse:
        with self._failing(self._texts.evidence), on_behalf_of(context.connection):
            deadline = context.deadline.for_inner_call()
            content = await self._agent.evidence(request.RuntimeData, deadline)
        return aa_pb2.GetEvidenceResponse(Evidence=content)

    async def _get_additional_evidence(
        self, request: aa_pb2.GetAdditionalEvidenceRequest, context: CallContext
    ) -> aa_pb2.GetEvidenceResponse:
        with self._failing(self._texts.additional_evidence), on_behalf_of(context.connection):
            deadline = context.deadline.for_inner_call()
            content = await self._agent.additional_evidence(request.RuntimeData, deadline)
        return aa_pb2.GetEvidenceResponse(Evidence=content)

    async def _get_token(
        self, request: aa_pb2.GetTokenRequest, context: CallContext
    ) -> aa_pb2.GetTokenResponse:
        with self._failing(self._texts.token), on_behalf_of(context.connection):
            deadline = context.deadline.for_inner_call()
            has_data = request.HasField("AdditionalData")
            additional_data = request.AdditionalData if has_data else None
            token = await self._agent.token(request.TokenType, deadline, additional_data)
        with token:
            return aa_pb2.GetTokenResponse(Token=token.reveal())

    async def _extend(
        self, request: aa_pb2.ExtendRuntimeMeasurementRequest, context: CallContext
    ) -> aa_pb2.ExtendRuntimeMeasurementResponse:
        register = request.RegisterIndex if request.HasField("RegisterIndex") else None
        with self._failing(self._texts.extend):
            measured = await self._agent.extend(
                request.Domain,
                request.Operation,
                request.Content,
                register,
                context.deadline.for_inner_call(),
            )
        return aa_pb2.ExtendRuntimeMeasurementResponse(Result=_RESULTS[measured])

    async def _bind_init_data(
        self, request: aa_pb2.BindInitDataRequest, context: CallContext
    ) -> aa_pb2.BindInitDataResponse:
        with self._failing(self._texts.bind):
            await self._agent.bind_init_data(request.Digest, context.deadline.for_inner_call())
        return aa_pb2.BindInitDataResponse()

    async def _get_tee_type(
        self, request: aa_pb2.GetTeeTypeRequest, context: CallContext
    ) -> aa_pb2.GetTeeTypeResponse:
        with self._failing(self._texts.tee):
            tee = await self._agent.tee()
        return aa_pb2.GetTeeTypeResponse(tee=tee.value)

    async def _get_additional_tees(
        self, request: aa_pb2.GetAdditionalTeesRequest, context: CallContext
    ) -> aa_pb2.GetAdditionalTeesResponse:
        with self._failing(self._texts.additional_tees):
            tees = [tee.value for tee in self._agent.additional_tees()]
        return aa_pb2.GetAdditionalTeesResponse(additional_tees=tees)

    @contextmanager
    def _failing(self, text: str) -> Iterator[None]:
        """Give a failure of the block its text on the wire."""
        try:
            yield
        except GuestError as error:
            cause = ": ".join(error.causes())[:MAX_CAUSE]
            status = status_of(error, f"{text}: {cause}", exact=self._exact_status)
            raise StatusError(status) from error
