"""What clients of both builds of the attestation agent see of failures and of `BindInitData`."""

from pathlib import Path
from typing import Any, Final

import pytest

from attestation_agent.agent import Agent, Measured
from attestation_agent.attesters.sample import SampleAttester
from attestation_agent.collector import EvidenceCollector
from attestation_agent.rpc import AgentEdge
from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError, LimitError, PlatformError
from guest.protos import aa_pb2, methods
from guest.secret import Secret
from guest.tee import Tee
from support.agents import make_agent
from support.transports import connected

PREFIX: Final = "[ERROR:attestation-agent] "
CAUSE: Final = "device: read: EIO"
EXTEND: Final = aa_pb2.ExtendRuntimeMeasurementRequest(Domain="d", Operation="o", Content="c")
BIND_PATH: Final = "/attestation_agent.AttestationAgentService/BindInitData"

TEXTS: Final[tuple[tuple[Any, Any, str, str], ...]] = (
    (methods.GET_TOKEN, aa_pb2.GetTokenRequest(TokenType="kbs"),
     "AA-KBC get token failed", "AA get token failed"),
    (methods.GET_EVIDENCE, aa_pb2.GetEvidenceRequest(),
     "AA-KBC get evidence failed", "AA get evidence failed"),
    (methods.GET_ADDITIONAL_EVIDENCE, aa_pb2.GetAdditionalEvidenceRequest(),
     "AA-KBC get evidence failed", "AA get additional evidence failed"),
    (methods.EXTEND_RUNTIME_MEASUREMENT, EXTEND,
     "AA extend runtime measurement failed", "AA extend runtime measurement failed"),
    (methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(),
     "AA-KBC get tee type failed", "AA get tee type failed"),
    (methods.GET_ADDITIONAL_TEES, aa_pb2.GetAdditionalTeesRequest(),
     "AA-KBC get tee type failed", "AA get additional tees failed"),
)  # fmt: skip
"""Method, request, text over ttRPC, text over gRPC: docs/spec/attestation-agent.md 4."""


class BrokenAgent(Agent):
    """Every use case fails."""

    def __init__(self, error: GuestError) -> None:
        self._error = error
        super().__init__(EvidenceCollector(SampleAttester()), self)

    async def fetch(self, *_: object) -> Secret:
        raise self._error

    async def tee(self) -> Tee:
        raise self._error

    def additional_tees(self) -> tuple[Tee, ...]:
        raise self._error

    async def evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        raise self._error

    async def additional_evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        raise self._error

    async def extend(self, *_: object) -> Measured:
        raise self._error

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> bool:
        raise self._error


def soon() -> Deadline:
    return Deadline.after(30)


@pytest.mark.spec("protos", 6)
@pytest.mark.parametrize("transport", ["ttrpc", "grpc"])
@pytest.mark.parametrize(
    "error", [PlatformError(CAUSE), InvalidInputError(CAUSE), LimitError(CAUSE)]
)
async def test_every_method_has_its_text_and_the_exact_class_comes_through(
    short_tmp: Path, transport: str, error: GuestError
) -> None:
    is_grpc = transport == "grpc"
    rows = [(method, request, grpc if is_grpc else ttrpc) for method, request, ttrpc, grpc in TEXTS]
    if is_grpc:
        rows.append(
            (methods.BIND_INIT_DATA, aa_pb2.BindInitDataRequest(), "AA binding init data failed")
        )
    routes = AgentEdge(BrokenAgent(error), grpc=is_grpc).routes()
    async with connected(transport, routes, short_tmp) as channel:
        for method, request, text in rows:
            with pytest.raises(type(error)) as caught:
                await channel.call(method, request, deadline=soon())
            assert f"{PREFIX}{text}: {CAUSE}" in str(caught.value)


@pytest.mark.spec("protos", 5)
async def test_binding_is_not_found_over_ttrpc_and_works_over_grpc(short_tmp: Path) -> None:
    request = aa_pb2.BindInitDataRequest(Digest=bytes(32))
    routes = make_agent(short_tmp).routes
    async with connected("ttrpc", routes, short_tmp) as channel:
        with pytest.raises(GuestError) as caught:
            await channel.call(methods.BIND_INIT_DATA, request, deadline=soon())
    assert f"{BIND_PATH} is not supported" in str(caught.value)
    assert caught.value.code == "not-found"
    routes = make_agent(short_tmp, grpc=True).routes
    async with connected("grpc", routes, short_tmp) as channel:
        response = await channel.call(methods.BIND_INIT_DATA, request, deadline=soon())
    assert response == aa_pb2.BindInitDataResponse()
