"""Tokens of an attestation service that really checks, and of one that misbehaves."""

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestation_agent.launch import LaunchData
from attestation_agent.tokens import coco_as
from guest.deadline import Deadline
from guest.errors import ConfigError, GuestError
from guest.protos import aa_pb2, methods
from guest.retry import Backoff
from guest.rpc.method import CallContext, Channel
from guest.rpc.status import StatusError
from guest.wire import decode_base64, decode_base64url
from guest_simulator.attestation_service import AttestationService
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault, Lie
from guest_simulator.tdx.verifier import TdxVerifier
from support.agents import config_of, make_agent, running
from support.tdx_world import boot, hints_of, make_guest

DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"a.toml" = "x = 1"\n'
PREFIX = "[ERROR:attestation-agent] AA-KBC get token failed: "
VECTOR = (
    b'{"verification_requests":[{"tee":"sample",'
    b'"evidence":"eyJzdm4iOiIxIiwicmVwb3J0X2RhdGEiOiIifQ"}],"policy_ids":[]}'
)


@asynccontextmanager
async def agent(
    root: Path, url: str, *, launch: LaunchData | None = None, **more: object
) -> AsyncIterator[Channel]:
    config = config_of(token_configs={"coco_as": {"url": url, **more}})
    async with running(make_agent(root, config, launch=launch)) as channel:
        yield channel


async def get_token(channel: Channel, seconds: float = 30.0) -> str:
    request = aa_pb2.GetTokenRequest(TokenType="coco_as")
    response = await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(seconds))
    return response.Token.decode()


async def failure(channel: Channel, seconds: float = 30.0) -> str:
    with pytest.raises(GuestError) as caught:
        await get_token(channel, seconds)
    assert str(caught.value).startswith(PREFIX)
    return str(caught.value)


def payload(token: str) -> str:
    return decode_base64url(token.split(".")[1]).decode()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_as, "BACKOFF", Backoff(first=0.01, most=0.02, attempts=5))


@pytest.mark.spec("attestation-agent", 25)
@pytest.mark.parametrize("tail", ["", "/", "//"])
async def test_the_body_is_the_vectors_and_the_token_comes_unwrapped(
    short_tmp: Path, tail: str
) -> None:
    async with AttestationService(base_path="/as") as service:
        launch = LaunchData(digest=bytes(48), text=DOCUMENT)
        async with agent(short_tmp, service.url + tail, launch=launch) as channel:
            token = await get_token(channel)
    assert service.bodies == [VECTOR]
    assert service.tokens == [token]
    (record,) = service.requests.matching("POST", r"^/as/attestation$")
    assert record.status == 200
    assert not service.nonces


async def test_a_token_that_is_no_jwt_is_handed_on_all_the_same(short_tmp: Path) -> None:
    async with AttestationService() as service, agent(short_tmp, service.url) as channel:
        service.faults.add(Fault(lie=Lie.GARBAGE_TOKEN))
        assert await get_token(channel) == "this is no token"


async def test_every_call_attests_anew(short_tmp: Path) -> None:
    async with AttestationService() as service, agent(short_tmp, service.url) as channel:
        await get_token(channel)
        await get_token(channel)
    assert len(service.bodies) == len(service.tokens) == 2


async def test_the_policies_of_the_configuration_are_asked_for(short_tmp: Path) -> None:
    async with AttestationService() as service:
        service.policies.add("strict")
        async with agent(short_tmp, service.url, policy_ids=["strict"]) as channel:
            assert '"ear.appraisal-policy-id":"strict"' in payload(await get_token(channel))
        async with agent(short_tmp, service.url, policy_ids=["absent"]) as channel:
            assert "policy is not found" in await failure(channel)


async def test_a_bound_nonce_is_in_evidence_and_token_with_the_init_data(short_tmp: Path) -> None:
    launch = LaunchData(digest=bytes(48), text=DOCUMENT)
    async with AttestationService() as service:
        async with agent(short_tmp, service.url, launch=launch, bind_nonce=True) as channel:
            first, second = await get_token(channel), await get_token(channel)
    assert len(set(service.nonces)) == 2
    for token, nonce, body in zip((first, second), service.nonces, service.bodies, strict=True):
        assert f'"runtime_data_claims":{{"nonce":"{nonce}"}}' in payload(token)
        assert '"init_data_claims":{"a.toml":{"x":1}}' in payload(token)
        (individual,) = json.loads(body)["verification_requests"]
        evidence = json.loads(decode_base64url(individual["evidence"]))
        expected = hashlib.sha384(f'{{"nonce":"{nonce}"}}'.encode()).digest()
        assert decode_base64(evidence["report_data"]) == expected


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="/challenge", status=404),
        Fault(path="/challenge", status=200, body=b""),
        Fault(path="/challenge", status=200, body=b"\xff"),
    ],
)
async def test_without_a_challenge_nothing_falls_back_to_evidence_that_binds_nothing(
    short_tmp: Path, fault: Fault
) -> None:
    async with AttestationService() as service:
        service.faults.add(fault)
        async with agent(short_tmp, service.url, bind_nonce=True) as channel:
            await failure(channel)
    assert service.bodies == []


@pytest.mark.spec("attestation-agent", 26)
async def test_a_service_that_answers_500_gives_code_13_and_its_text_in_answer_and_log(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with AttestationService() as service:
        del service.verifiers["sample"]
        made = make_agent(short_tmp, config_of(token_configs={"coco_as": {"url": service.url}}))
        async with running(made) as channel:
            said = await failure(channel)
            bound = made.routes.find(methods.GET_TOKEN.service, methods.GET_TOKEN.name)
            with pytest.raises(StatusError) as caught:
                await bound.handler(
                    aa_pb2.GetTokenRequest(TokenType="coco_as"),
                    CallContext(deadline=Deadline.after(30)),
                )
    assert (caught.value.status.code, caught.value.status.message) == (13, said)
    words = (
        'Remote Attestation Failed, AS Response: "An internal error occured: Caused by: '
        '0: Verifier evaluate failed 1: no verifier for sample" (status 500)'
    )
    assert words in said
    logged = [getattr(record, "causes", []) for record in caplog.records]
    assert any(words in cause for causes in logged for cause in causes)
    assert len(service.bodies) == 2, "a refusal is not asked again"


@pytest.mark.parametrize("status", [300, 400, 401, 403, 404, 413, 500, 501])
async def test_a_refusal_of_any_other_status_is_final_too(short_tmp: Path, status: int) -> None:
    async with AttestationService() as service, agent(short_tmp, service.url) as channel:
        armed = service.faults.add(Fault(status=status, body=b"no\n\nand\tno\x00", headers={}))
        assert f'"no and no?" (status {status})' in await failure(channel)
        assert armed.hits == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("bind_nonce", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(status=status, times=2) for status in (408, 429, 502, 503, 504)),
        Fault(drop=True, times=2),
        Fault(cut_after=5, times=2),
    ],
)
async def test_what_may_pass_is_tried_again(
    short_tmp: Path, fault: Fault, bind_nonce: bool
) -> None:
    async with AttestationService() as service:
        armed = service.faults.add(fault)
        async with agent(short_tmp, service.url, bind_nonce=bind_nonce) as channel:
            assert await get_token(channel) == service.tokens[-1]
    assert armed.hits == 2


@pytest.mark.usefixtures("quick")
async def test_what_does_not_pass_fails_after_a_few_attempts_with_its_cause(
    short_tmp: Path,
) -> None:
    async with AttestationService() as service, agent(short_tmp, service.url) as channel:
        armed = service.faults.add(Fault(status=503, body=b"busy"))
        said = await failure(channel)
        assert armed.hits == 5
        assert 'asked 5 times: Remote Attestation Failed, AS Response: "busy"' in said
    async with agent(short_tmp, "http://127.0.0.1:1") as channel:
        assert "127.0.0.1:1" in await failure(channel)


async def test_attempts_end_before_the_callers_deadline(short_tmp: Path) -> None:
    async with agent(short_tmp, "http://127.0.0.1:1") as channel:
        started = time.monotonic()
        await failure(channel, 2.0)
        assert time.monotonic() - started < 2.0


async def test_a_silent_service_costs_no_more_than_the_deadline(short_tmp: Path) -> None:
    async with AttestationService() as service, agent(short_tmp, service.url) as channel:
        service.faults.add(Fault(delay=60.0))
        started = time.monotonic()
        with pytest.raises(GuestError):
            await get_token(channel, 1.5)
        assert time.monotonic() - started < 15.0


@pytest.mark.usefixtures("quick")
async def test_the_configured_timeout_ends_one_request_and_the_next_may_succeed(
    short_tmp: Path,
) -> None:
    async with AttestationService() as service:
        async with agent(short_tmp, service.url, timeout=1.0) as channel:
            armed = service.faults.add(Fault(delay=60.0, times=1))
            assert await get_token(channel) == service.tokens[-1]
            assert armed.hits == 1


async def test_a_private_authority_is_trusted_by_its_certificate_alone(short_tmp: Path) -> None:
    authority = CertificateAuthority.create()
    context = authority.issue("127.0.0.1").context()
    async with AttestationService(tls=context) as service:
        async with agent(short_tmp, service.url, cert=authority.pem.decode()) as channel:
            assert await get_token(channel) == service.tokens[-1]
        async with agent(short_tmp, service.url) as channel:
            assert "asked 1 times" in await failure(channel)
    assert len(service.bodies) == 1


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://a/?b", "http://a b", "a", "http://[a"]
)
async def test_a_url_that_is_none_says_so(short_tmp: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^token_configs\.coco_as\.url "):
        async with agent(short_tmp, url):
            pass


async def test_a_certificate_that_is_none_says_so(short_tmp: Path) -> None:
    async with agent(short_tmp, "https://127.0.0.1:1", cert="no PEM") as channel:
        await failure(channel)


@pytest.mark.blocks_loop
@pytest.mark.parametrize("bind_nonce", [False, True])
async def test_a_quote_convinces_a_service_with_and_without_a_nonce(
    short_tmp: Path, bind_nonce: bool
) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    async with AttestationService() as service:
        service.verifiers["tdx"] = TdxVerifier(root=guest.platform.root)
        config = config_of(
            token_configs={"coco_as": {"url": service.url, "bind_nonce": bind_nonce}}
        )
        made = make_agent(Path(guest.root), config, hints=hints_of(guest))
        async with running(made) as channel:
            assert await get_token(channel) == service.tokens[-1]
