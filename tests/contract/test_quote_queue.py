"""Many callers and one slow quote device, over the agent's real socket; nothing here is timed."""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from attestation_agent.component import AttestationAgent
from guest.deadline import Deadline
from guest.errors import LimitError
from guest.protos import aa_pb2, methods
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from guest_simulator.kbs.server import Kbs
from guest_simulator.tdx.guest import Fault, TdxGuest
from guest_simulator.tdx.verifier import TdxVerifier
from support.agents import config_of
from support.tdx_world import hints_of, make_guest, parse_quote

WAITING: Final = 32
"""Most calls of one connection that wait; one more is being served."""


def soon() -> Deadline:
    return Deadline.after(50)


@asynccontextmanager
async def serving(guest: TdxGuest, kbs: str = "http://127.0.0.1:1") -> AsyncIterator[str]:
    """The agent on its socket."""
    address = f"unix://{guest.root}/aa.sock"
    agent = AttestationAgent(
        config_of(token_configs={"kbs": {"url": kbs}}),
        lambda routes: TtrpcServer(routes, address),
        hints=hints_of(guest),
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run(ready=ready.set, stop=stop), name="agent")
        await ready.wait()
        try:
            yield address
        finally:
            stop.set()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[TtrpcChannel]:
    channel = TtrpcChannel(address)
    try:
        yield channel
    finally:
        await channel.close()


async def report_data_of(channel: TtrpcChannel, guest: TdxGuest, data: bytes) -> bytes:
    request = aa_pb2.GetEvidenceRequest(RuntimeData=data)
    response = await channel.call(methods.GET_EVIDENCE, request, deadline=soon())
    quote = base64.b64decode(json.loads(response.Evidence)["quote"])
    return parse_quote(quote, guest.platform.root).report_data


@pytest.mark.parametrize("connections", [1, 4, 20])
async def test_20_callers_at_once_each_get_evidence_for_their_own_report_data(
    short_tmp: Path, connections: int
) -> None:
    guest = make_guest(short_tmp, quote_seconds=0.005)
    data = [hashlib.sha384(bytes((number,))).digest() for number in range(20)]
    async with serving(guest) as address, asyncio.TaskGroup() as group:
        channels = [TtrpcChannel(address) for _ in range(connections)]
        tasks = [
            group.create_task(report_data_of(channels[number % connections], guest, each))
            for number, each in enumerate(data)
        ]
        await asyncio.wait(tasks)
        for channel in channels:
            await channel.close()
    assert [task.result() for task in tasks] == [each + bytes(16) for each in data]
    assert guest.reports.names() == ()


async def test_a_full_queue_refuses_at_once_and_nobody_else_notices(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    release = threading.Event()
    fault = Fault(path="/outblob", call="read", block=release, times=1)
    guest.faults.append(fault)
    order: list[str] = []
    refused: list[LimitError] = []

    async def ask(channel: TtrpcChannel, name: str) -> None:
        try:
            await report_data_of(channel, guest, name.encode())
            order.append(name)
        except LimitError as error:
            refused.append(error)

    async def get_token(channel: TtrpcChannel) -> None:
        request = aa_pb2.GetTokenRequest(TokenType="kbs")
        await channel.call(methods.GET_TOKEN, request, deadline=soon())
        order.append("token")

    async with Kbs() as kbs, serving(guest, kbs.url) as address:
        kbs.behaviour.verifiers["tdx"] = TdxVerifier(root=guest.platform.root)
        async with connected(address) as rest, connected(address) as cdh:
            async with asyncio.TaskGroup() as group:
                for _ in range(WAITING + 8):
                    group.create_task(ask(rest, "flood"))
                while len(refused) < 7:
                    await asyncio.sleep(0.001)
                group.create_task(get_token(cdh))
                tee = await cdh.call(
                    methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=soon()
                )
                assert (tee.tee, order) == ("tdx", [])
                while not kbs.handshakes:
                    await asyncio.sleep(0.001)
                release.set()
    assert len(refused) == 7
    assert all("32 calls of this connection wait" in str(error) for error in refused)
    assert order.count("flood") == WAITING + 1
    assert order.index("token") < 10, "its connection had its turn"
