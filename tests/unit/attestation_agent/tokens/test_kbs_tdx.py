"""Tokens for a TDX guest, from a KBS that verifies its quotes, init data and event log."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestation_agent.launch import LaunchData
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import aa_pb2, methods
from guest.rpc.method import Channel
from guest_simulator.kbs.server import Kbs
from guest_simulator.tdx.guest import TdxGuest
from guest_simulator.tdx.quote import Platform
from guest_simulator.tdx.verifier import TdxVerifier
from support.agents import config_of, make_agent, running
from support.tdx_world import boot, hints_of, make_guest

DOCUMENT = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"a.toml" = "x = 1"\n'


@asynccontextmanager
async def world(
    guest: TdxGuest, *, launch: LaunchData | None = None, root: bytes | None = None
) -> AsyncIterator[tuple[Channel, Kbs]]:
    """An agent on the guest and a KBS that trusts its platform, or the root."""
    async with Kbs() as kbs:
        kbs.behaviour.verifiers["tdx"] = TdxVerifier(root=root or guest.platform.root)
        config = config_of(
            token_configs={"kbs": {"url": kbs.url}}, eventlog_config={"enable_eventlog": True}
        )
        agent = make_agent(Path(guest.root), config, launch=launch, hints=hints_of(guest))
        async with running(agent) as channel:
            yield channel, kbs


async def get_token(channel: Channel) -> str:
    request = aa_pb2.GetTokenRequest(TokenType="kbs")
    response = await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(30))
    token: str = json.loads(response.Token)["token"]
    return token


async def extend(channel: Channel, content: str) -> None:
    request = aa_pb2.ExtendRuntimeMeasurementRequest(
        Domain="domain", Operation="operation", Content=content
    )
    await channel.call(methods.EXTEND_RUNTIME_MEASUREMENT, request, deadline=Deadline.after(30))


@pytest.mark.blocks_loop
async def test_quote_init_data_and_event_log_convince_a_kbs(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    digest = hashlib.sha384(DOCUMENT.encode()).digest()
    guest.domain.config_id = digest
    launch = LaunchData(digest=digest, text=DOCUMENT)
    async with world(guest, launch=launch) as (channel, kbs):
        await get_token(channel)
        await extend(channel, "content")
        await get_token(channel)
        assert kbs.attestations == 2
        guest.domain.registers.extend(3, bytes(48))
        await get_token(channel)


@pytest.mark.blocks_loop
async def test_a_platform_that_is_not_trusted_gets_no_token(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    async with world(guest, root=Platform.generate().root) as (channel, kbs):
        with pytest.raises(GuestError, match="get token failed"):
            await get_token(channel)
        assert kbs.attestations == 0


@pytest.mark.blocks_loop
async def test_tokens_and_events_at_once_all_convince(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, quote_seconds=0.02)
    boot(guest)
    async with world(guest) as (channel, kbs):
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(get_token(channel))
                group.create_task(extend(channel, str(number)))
        assert kbs.attestations == 8
