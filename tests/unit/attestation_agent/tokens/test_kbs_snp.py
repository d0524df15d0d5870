"""Tokens for an SNP guest, from a KBS that verifies its reports, certificates and init data."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestation_agent.launch import LaunchData
from guest.deadline import Deadline
from guest.errors import GuestError, PlatformError, first_failure
from guest.protos import aa_pb2, methods
from guest.rpc.method import Channel
from guest_simulator.kbs.server import Kbs
from guest_simulator.snp.chip import Chip, Launch
from guest_simulator.snp.verifier import SnpVerifier
from support.agents import config_of, make_agent, running
from support.snp_world import SnpWorld, chip

DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha512"\n[data]\n"a.toml" = "x = 1"\n'
DIGEST = hashlib.sha512(DOCUMENT.encode()).digest()


@asynccontextmanager
async def agent_and_kbs(
    world: SnpWorld, *, launch: LaunchData | None = None, trusted: Chip | None = None
) -> AsyncIterator[tuple[Channel, Kbs]]:
    """An agent on the guest and a KBS that trusts its processor, or the other one."""
    async with Kbs() as kbs:
        certificates = (trusted or world.chip).certificates
        kbs.behaviour.verifiers["snp"] = SnpVerifier(certificates=certificates)
        # An SNP guest cannot measure; a configuration that wants a log must not stop the agent.
        config = config_of(
            token_configs={"kbs": {"url": kbs.url}}, eventlog_config={"enable_eventlog": True}
        )
        agent = make_agent(world.root, config, launch=launch, hints=world.hints())
        async with running(agent) as channel:
            yield channel, kbs


async def get_token(channel: Channel) -> str:
    request = aa_pb2.GetTokenRequest(TokenType="kbs")
    response = await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(30))
    token: str = json.loads(response.Token)["token"]
    return token


@pytest.mark.blocks_loop
@pytest.mark.parametrize("has_configfs", [True, False], ids=["configfs", "ioctl"])
@pytest.mark.parametrize("name", ["Milan", "Turin"])
async def test_report_certificates_and_init_data_convince_a_kbs(
    short_tmp: Path, name: str, has_configfs: bool
) -> None:
    world = SnpWorld(
        root=short_tmp,
        chip=chip(name),
        launch=Launch(version=5, host_data=DIGEST[:32]),
        has_configfs=has_configfs,
        table=chip(name).table("VCEK"),
    )
    launch = LaunchData(digest=DIGEST, text=DOCUMENT)
    async with agent_and_kbs(world, launch=launch) as (channel, kbs):
        await get_token(channel)
        world.table = chip(name).table("ARK", "ASK")
        await get_token(channel)
        assert kbs.attestations == 2


@pytest.mark.blocks_loop
async def test_another_processor_gets_no_token(short_tmp: Path) -> None:
    world = SnpWorld(root=short_tmp, table=chip().table("VCEK"))
    async with agent_and_kbs(world, trusted=Chip.generate()) as (channel, kbs):
        with pytest.raises(GuestError, match="get token failed"):
            await get_token(channel)
        assert kbs.attestations == 0


@pytest.mark.blocks_loop
async def test_an_agent_with_other_init_data_than_the_launch_does_not_start(
    short_tmp: Path,
) -> None:
    world = SnpWorld(root=short_tmp)
    launch = LaunchData(digest=DIGEST, text=DOCUMENT)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with agent_and_kbs(world, launch=launch):
            pytest.fail("it started")
    failure = first_failure(caught.value)
    assert isinstance(failure, PlatformError)
    assert "HOSTDATA does not match." in failure.causes()
