"""The methods on the wire: messages, codes and texts."""

import json
from pathlib import Path

import pytest
from google.protobuf.message import Message

from attestation_agent.agent import Agent
from attestation_agent.attesters.base import Attester, InitDataBinder, MeasurementRegisters
from attestation_agent.collector import EvidenceCollector
from attestation_agent.rpc import AgentEdge
from guest.deadline import Deadline
from guest.errors import DeadlineError, DeniedError, GuestError, PlatformError
from guest.protos import aa_pb2, methods
from guest.protos.ttrpc_pb2 import Request, Response
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Method, Q, R, Routes
from guest.rpc.status import Code, Status, StatusError
from guest.secret import Secret
from guest.tee import Tee
from support.agents import config_of, make_agent, running

LOG_FILE = Path("/run/attestation-agent/eventlog")
PREFIX = "[ERROR:attestation-agent] "


def soon() -> Deadline:
    return Deadline.after(30)


class Broken:
    """An attester and token source that fails."""

    tee = Tee.SAMPLE
    registers: MeasurementRegisters | None = None
    init_data: InitDataBinder | None = None

    def __init__(self, error: GuestError) -> None:
        self._error = error

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        raise self._error

    async def fetch(
        self, kind: str, deadline: Deadline, additional_data: str | None = None
    ) -> Secret:
        raise self._error

    async def bind(self, digest: bytes, deadline: Deadline) -> None:
        raise self._error


def routes_of(error: GuestError, *, grpc: bool = False, exact: bool = False) -> Routes:
    broken = Broken(error)
    broken.init_data = broken
    attester: Attester = broken
    collector = EvidenceCollector(attester, (attester,))
    return AgentEdge(Agent(collector, broken), grpc=grpc, exact_status=exact).routes()


async def failure(routes: Routes, method: Method[Q, R], request: Q) -> Status:
    bound = routes.find(method.service, method.name)
    with pytest.raises(StatusError) as caught:
        await bound.handler(request, CallContext(deadline=soon()))
    return caught.value.status


FAILING = (
    (methods.GET_EVIDENCE, aa_pb2.GetEvidenceRequest(),
     "AA-KBC get evidence failed", "AA get evidence failed"),
    (methods.GET_ADDITIONAL_EVIDENCE, aa_pb2.GetAdditionalEvidenceRequest(),
     "AA-KBC get evidence failed", "AA get additional evidence failed"),
    (methods.GET_TOKEN, aa_pb2.GetTokenRequest(TokenType="kbs"),
     "AA-KBC get token failed", "AA get token failed"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "request_", "ttrpc", "grpc"), FAILING, ids=lambda v: str(v)[:30]
)
async def test_a_failure_is_internal_with_its_fixed_text_and_the_cause_behind(
    method: Method[Message, Message], request_: Message, ttrpc: str, grpc: str
) -> None:
    error = PlatformError("device\nfailed")
    error.__cause__ = OSError(5, "I/O error")
    cause = "device failed: OSError: [Errno 5] I/O error"
    for is_grpc, text in ((False, ttrpc), (True, grpc)):
        status = await failure(routes_of(error, grpc=is_grpc), method, request_)
        assert (status.code, status.message) == (Code.INTERNAL, f"{PREFIX}{text}: {cause}")
        assert status.detail is not None
        assert status.detail.status == Code.FAILED_PRECONDITION


async def test_the_exact_status_is_sent_when_configured_and_a_deadline_always() -> None:
    request = aa_pb2.GetTokenRequest(TokenType="kbs")
    exact = routes_of(DeniedError("no"), exact=True)
    assert (await failure(exact, methods.GET_TOKEN, request)).code == Code.PERMISSION_DENIED
    late = routes_of(DeadlineError("late"))
    assert (await failure(late, methods.GET_TOKEN, request)).code == Code.DEADLINE_EXCEEDED


async def test_a_failed_binding_has_its_text() -> None:
    request = aa_pb2.BindInitDataRequest(Digest=b"x")
    routes = routes_of(DeniedError("no"), grpc=True)
    status = await failure(routes, methods.BIND_INIT_DATA, request)
    assert (status.code, status.message) == (13, f"{PREFIX}AA binding init data failed: no")


@pytest.mark.spec("attestation-agent", 9)
def test_the_published_messages_encode_and_decode_bit_exactly() -> None:
    extend = aa_pb2.ExtendRuntimeMeasurementRequest
    extended = aa_pb2.ExtendRuntimeMeasurementResponse

    def event(register: int | None = None) -> aa_pb2.ExtendRuntimeMeasurementRequest:
        return extend(
            Domain="domain", Operation="operation", Content="content", RegisterIndex=register
        )

    text = "0a06646f6d61696e12096f7065726174696f6e1a07636f6e74656e74"
    tees = aa_pb2.GetAdditionalTeesResponse(additional_tees=["nvidia", "sampledevice"])
    messages: list[tuple[Message, str]] = [
        (aa_pb2.GetEvidenceRequest(RuntimeData=b"\0\1\2"), "0a03000102"),
        (aa_pb2.GetTokenRequest(TokenType="kbs"), "0a036b6273"),
        (event(), text),
        (event(16), f"{text}2010"),
        (extend(Domain="d", Operation="o", Content="c", RegisterIndex=0), "0a016412016f1a01632000"),
        (extended(Result=aa_pb2.OK), ""),
        (extended(Result=aa_pb2.NOT_ENABLED), "0802"),
        (aa_pb2.GetTeeTypeResponse(tee="sample"), "0a0673616d706c65"),
        (tees, "0a066e76696469610a0c73616d706c65646576696365"),
    ]
    for message, encoded in messages:
        assert message.SerializeToString().hex() == encoded
        assert type(message).FromString(bytes.fromhex(encoded)) == message
    assert extend.FromString(bytes.fromhex("0a016412016f1a01632000")).HasField("RegisterIndex")
    assert not extend.FromString(bytes.fromhex("0a016412016f1a0163")).HasField("RegisterIndex")


@pytest.mark.spec("attestation-agent", 10)
def test_the_published_frames_are_a_request_of_ours_and_an_error_response() -> None:
    request = Request(
        service=methods.GET_TEE_TYPE.service, method="GetTeeType", timeout_nano=5_000_000_000
    ).SerializeToString()
    assert (len(request).to_bytes(4).hex() + "000000010100" + request.hex()) == (
        "0000003d000000010100"
        "0a296174746573746174696f6e5f6167656e742e4174746573746174696f6e4167656e7453657276696365"
        "120a476574546565547970652080e497d012"
    )
    failed = Response()
    failed.status.code = 13
    failed.status.message = f"{PREFIX}AA-KBC get token failed"
    response = failed.SerializeToString()
    assert (len(response).to_bytes(4).hex() + "000000010200" + response.hex()) == (
        "00000037000000010200"
        "0a35080d12315b4552524f523a6174746573746174696f6e2d6167656e745d2041412d4b42432067657420746f"
        "6b656e206661696c6564"
    )


@pytest.mark.spec("attestation-agent", 11)
async def test_a_machine_without_marks_is_the_sample(short_tmp: Path) -> None:
    async with running(make_agent(short_tmp)) as channel:
        request = aa_pb2.GetTeeTypeRequest()
        response = await channel.call(methods.GET_TEE_TYPE, request, deadline=soon())
    assert response.tee == "sample"


@pytest.mark.spec("attestation-agent", 12)
@pytest.mark.parametrize("devices", [True, False])
async def test_the_sample_device_is_listed_when_enabled(short_tmp: Path, devices: bool) -> None:
    async with running(make_agent(short_tmp, devices=devices)) as channel:
        request = aa_pb2.GetAdditionalTeesRequest()
        response = await channel.call(methods.GET_ADDITIONAL_TEES, request, deadline=soon())
    assert list(response.additional_tees) == (["sampledevice"] if devices else [])


@pytest.mark.spec("attestation-agent", 13)
async def test_evidence_is_json_that_binds_the_data(short_tmp: Path) -> None:
    async with running(make_agent(short_tmp)) as channel:
        request = aa_pb2.GetEvidenceRequest(RuntimeData=b"\0\1\2")
        response = await channel.call(methods.GET_EVIDENCE, request, deadline=soon())
        assert json.loads(response.Evidence) == {"svn": "1", "report_data": "AAEC"}
        empty = aa_pb2.GetEvidenceRequest()
        response = await channel.call(methods.GET_EVIDENCE, empty, deadline=soon())
        assert json.loads(response.Evidence) == {"svn": "1", "report_data": ""}


@pytest.mark.spec("attestation-agent", 14, 15)
@pytest.mark.parametrize("devices", [True, False])
async def test_additional_evidence_is_one_member_per_device_or_no_bytes(
    short_tmp: Path, devices: bool
) -> None:
    async with running(make_agent(short_tmp, devices=devices)) as channel:
        request = aa_pb2.GetAdditionalEvidenceRequest(RuntimeData=b"\0\1\2")
        response = await channel.call(methods.GET_ADDITIONAL_EVIDENCE, request, deadline=soon())
    if devices:
        expected = {"sampledevice": {"svn": "2", "report_data": "AAEC"}}
        assert json.loads(response.Evidence) == expected
    else:
        assert response.Evidence == b""


@pytest.mark.spec("attestation-agent", 16, 17, 18)
@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("foo", "Unsupported token type"),
        ("KBS", "Unsupported token type"),
        ("", "Unsupported token type"),
        ("kbs", "kbs token config not configured in config file"),
        ("coco_as", "coco_as token config not configured in config file"),
    ],
)
async def test_a_token_of_no_known_or_configured_kind_fails(
    short_tmp: Path, kind: str, cause: str
) -> None:
    agent = make_agent(short_tmp)
    status = await failure(agent.routes, methods.GET_TOKEN, aa_pb2.GetTokenRequest(TokenType=kind))
    assert (status.code, status.message) == (13, f"{PREFIX}AA-KBC get token failed: {cause}")


@pytest.mark.spec("attestation-agent", 27, 28)
@pytest.mark.parametrize(
    ("enabled", "result"), [(False, aa_pb2.NOT_ENABLED), (True, aa_pb2.NOT_SUPPORTED)]
)
async def test_measuring_on_the_sample_is_not_enabled_or_not_supported(
    short_tmp: Path, enabled: bool, result: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(eventlog_config={"enable_eventlog": enabled})
    before = LOG_FILE.exists()
    async with running(make_agent(short_tmp, config)) as channel:
        request = aa_pb2.ExtendRuntimeMeasurementRequest(
            Domain="d", Operation="o", Content="c", RegisterIndex=0
        )
        for _ in range(2):
            response = await channel.call(
                methods.EXTEND_RUNTIME_MEASUREMENT, request, deadline=soon()
            )
            assert response.Result == result
    assert LOG_FILE.exists() == before
    assert ("no event log: the TEE cannot measure" in caplog.messages) is enabled


@pytest.mark.spec("attestation-agent", 43)
def test_binding_is_declared_and_not_served_over_ttrpc(short_tmp: Path) -> None:
    method = methods.BIND_INIT_DATA
    with pytest.raises(StatusError) as caught:
        make_agent(short_tmp).routes.find(method.service, method.name)
    assert caught.value.status.code == Code.NOT_FOUND
    assert caught.value.status.message == (
        "/attestation_agent.AttestationAgentService/BindInitData is not supported"
    )


async def test_binding_over_grpc_on_the_sample_answers_empty(short_tmp: Path) -> None:
    async with running(make_agent(short_tmp, grpc=True)) as channel:
        request = aa_pb2.BindInitDataRequest(Digest=bytes(32))
        response = await channel.call(methods.BIND_INIT_DATA, request, deadline=soon())
    assert response == aa_pb2.BindInitDataResponse()


async def test_a_forks_extra_field_is_passed_over(short_tmp: Path) -> None:
    request = aa_pb2.GetTokenRequest.FromString(bytes.fromhex("0a03666f6f") + b"\x12\x01x")
    status = await failure(make_agent(short_tmp).routes, methods.GET_TOKEN, request)
    assert "Unsupported token type" in status.message


async def test_the_channel_of_the_same_process_sees_the_same(short_tmp: Path) -> None:
    channel = InProcessChannel(make_agent(short_tmp).routes)
    request = aa_pb2.GetTokenRequest(TokenType="x")
    with pytest.raises(GuestError, match="AA-KBC get token failed: Unsupported token type"):
        await channel.call(methods.GET_TOKEN, request, deadline=soon())
    await channel.close()
