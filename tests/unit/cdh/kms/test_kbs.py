"""Resources from a KBS, with tokens from an agent."""

import asyncio
import json
from pathlib import Path

import pytest

from cdh.agent import AgentClient
from cdh.config import CdhConfig, KbcConfig, ProxyConfig
from cdh.kms import open_resource_client
from cdh.kms.base import InitialisationError
from cdh.kms.kbs import KbsResources
from guest import wire
from guest.crypto.jose import open_jwe
from guest.crypto.keys import TeeKey
from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    PeerError,
    UnauthenticatedError,
)
from guest.protos import aa_pb2
from guest.protos.methods import GET_TOKEN
from guest.resource_uri import ResourceUri
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Routes
from guest.secret import Secret
from guest_simulator.faults import Fault, kbs_error
from guest_simulator.kbs.policy import deny_all
from support.hub_world import UnreachableAgent
from support.kbs_hub import hub_world

URI = ResourceUri.parse("kbs:///default/key/1")


@pytest.mark.spec("confidential-data-hub", 35)
async def test_a_hundred_requests_at_once_need_one_token(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(world.get(), name=f"get {n}") for n in range(100)]
        assert {task.result() for task in asked} == {b"the secret"}
        assert world.agent.tokens == 1


@pytest.mark.spec("confidential-data-hub", 36)
async def test_a_refused_token_is_replaced_once_and_absence_is_final(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        world.kbs.faults.add(kbs_error("TokenVerifierError", path="/resource/", times=1))
        assert await world.get() == b"the secret"
        assert world.agent.tokens == 2
        world.kbs.requests.clear()
        world.kbs.faults.add(kbs_error("ResourceNotFound", path="/key/2", status=404))
        with pytest.raises(NotFoundError, match="Get Resource failed"):
            await world.get("kbs:///default/key/2")
        assert world.kbs.requests.count(path="/resource/") == 1
        world.kbs.requests.clear()
        world.kbs.faults.add(kbs_error("TokenVerifierError", path="/resource/"))
        with pytest.raises(UnauthenticatedError):
            await world.get()
        assert world.kbs.requests.count(path="/resource/") <= 3


async def test_a_denial_is_final(short_tmp: Path) -> None:
    async with hub_world(short_tmp, policy=deny_all) as world:
        with pytest.raises(DeniedError, match=r"\[CDH\] \[ERROR\]: Get Resource failed"):
            await world.get()
        assert world.agent.tokens == 1


@pytest.mark.spec("confidential-data-hub", 38)
async def test_plugin_and_query_reach_the_kbs(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        world.kbs.faults.add(Fault(path="/pkcs11/", status=404))
        with pytest.raises(NotFoundError):
            await world.get("kbs+pkcs11:///a/b/c?x=1")
        (record,) = world.kbs.requests.matching(path="/pkcs11/")
        assert (record.path, record.query) == ("/kbs/v0/pkcs11/a/b/c", "x=1")


def resources(config: KbcConfig, agent: object, proxy: ProxyConfig | None = None) -> KbsResources:
    client = AgentClient(agent)  # type: ignore[arg-type]  # a fake has no generics
    return KbsResources.open(CdhConfig(kbc=config, proxy=proxy), client)


async def test_an_agent_that_is_not_there_is_a_failed_initialisation() -> None:
    config = KbcConfig(name="cc_kbc", url="http://127.0.0.1:1")
    source = resources(config, UnreachableAgent("unix:///nowhere"))
    with pytest.raises(InitialisationError, match="create AA token provider failed"):
        await source.fetch(URI, Deadline.after(5))
    await source.close()


@pytest.mark.parametrize("token", [b"", b"{}", b'{"token":"a.e30.c","tee_keypair":"x"}', b"\xff"])
async def test_an_agent_s_answer_that_is_no_token_is_its_fault(token: bytes) -> None:
    async def get_token(
        request: aa_pb2.GetTokenRequest, context: CallContext
    ) -> aa_pb2.GetTokenResponse:
        return aa_pb2.GetTokenResponse(Token=token)

    routes = Routes()
    routes.bind(GET_TOKEN, get_token)
    channel = InProcessChannel(routes)
    source = resources(KbcConfig(name="cc_kbc", url="http://127.0.0.1:1"), channel)
    with pytest.raises(PeerError, match="token"):
        await source.fetch(URI, Deadline.after(5))
    await source.close()
    await channel.close()


@pytest.mark.parametrize(
    "config",
    [
        CdhConfig(kbc=KbcConfig(name="cc_kbc")),
        CdhConfig(kbc=KbcConfig(name="cc_kbc", url="ftp://h")),
        CdhConfig(kbc=KbcConfig(name="cc_kbc", url="http://h", kbs_cert="no PEM")),
        CdhConfig(
            kbc=KbcConfig(name="cc_kbc", url="http://h"), proxy=ProxyConfig(http_proxy="ftp://p")
        ),
    ],
)
async def test_what_can_never_work_fails_each_request_alike(config: CdhConfig) -> None:
    agent = AgentClient(UnreachableAgent("unix:///x"))  # type: ignore[arg-type]  # as above
    source = open_resource_client(config, agent)
    for _ in range(2):
        with pytest.raises(InitialisationError):
            await source.fetch(URI, Deadline.after(5))
    await source.close()


def test_an_unknown_source_is_refused_at_start() -> None:
    config = CdhConfig(kbc=KbcConfig(name="sample_kbc"))
    agent = AgentClient(UnreachableAgent("unix:///x"))  # type: ignore[arg-type]  # as above
    with pytest.raises(ConfigError, match="unknown kbc name sample_kbc, only support `cc_kbc`"):
        open_resource_client(config, agent)


@pytest.mark.spec("confidential-data-hub", 37)
def test_the_published_answer_opens_and_a_changed_one_does_not(vectors: Path) -> None:
    document = json.loads((vectors / "cdh" / "kbs_answer.json").read_text())
    pem = f"-----BEGIN PRIVATE KEY-----\n{document['tee_keypair']}\n-----END PRIVATE KEY-----\n"
    key = TeeKey.from_pem(Secret(pem.encode()))
    answer = document["response"]
    assert open_jwe(json.dumps(answer).encode(), key).reveal() == b"test resource"
    header = wire.decode_base64url(answer["protected"])
    for changed in (header + b" ", header.replace(b'"alg":', b'"alg" :')):
        other = answer | {"protected": wire.encode_base64url(changed)}
        with pytest.raises(IntegrityError):
            open_jwe(json.dumps(other).encode(), key)
