"""CDH over a KBS that really checks, with an agent that attests to it and counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cdh.component import ConfidentialDataHub
from cdh.config import CdhConfig
from guest.deadline import Deadline
from guest.kbs.client import RcarClient
from guest.protos import aa_pb2, cdh_pb2
from guest.protos.methods import GET_RESOURCE, GET_TOKEN
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Channel, Routes
from guest.rpc.server import Server
from guest.ttrpc.server import TtrpcServer
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.server import Kbs
from support.kbs_world import rcar_client


@dataclass(slots=True)
class AttestingAgent:
    """Answers GetToken with a new attestation each time.

    Attributes:
        client: attests.
        tokens: how many it gave.
        gate: what it waits for first.
    """

    client: RcarClient
    tokens: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def get_token(
        self, request: aa_pb2.GetTokenRequest, context: CallContext
    ) -> aa_pb2.GetTokenResponse:
        """A token with its key."""
        assert request.TokenType == "kbs"
        await self.gate.wait()
        self.tokens += 1
        with (await self.client.attest(context.deadline)).encode() as encoded:
            return aa_pb2.GetTokenResponse(Token=encoded.reveal())

    def channel(self) -> Channel:
        """Leads to it."""
        routes = Routes()
        routes.bind(GET_TOKEN, self.get_token)
        return InProcessChannel(routes)


@dataclass(frozen=True, slots=True)
class HubWorld:
    """A running hub.

    Attributes:
        kbs: behind it.
        agent: beside it.
        channel: leads to it.
        socket: its path.
    """

    kbs: Kbs
    agent: AttestingAgent
    channel: Channel
    socket: Path

    async def get(self, uri: str = "kbs:///default/key/1", seconds: float = 30) -> bytes:
        """GetResource."""
        request = cdh_pb2.GetResourceRequest(ResourcePath=uri)
        deadline = Deadline.after(seconds)
        return (await self.channel.call(GET_RESOURCE, request, deadline=deadline)).Resource


@asynccontextmanager
async def hub_world(
    folder: Path,
    *,
    wait: bool = True,
    tables: dict[str, object] | None = None,
    aa: Channel | None = None,
    **behaviour: object,
) -> AsyncIterator[HubWorld]:
    """A hub with `cc_kbc` on a socket below `folder`; with `wait`, ready when the block begins.

    `aa` leads to another agent than the one beside it.
    """
    kbs = Kbs(behaviour=Behaviour(**behaviour))  # type: ignore[arg-type]  # as given
    kbs.put_resource("default/key/1", b"the secret")
    socket = folder / "new" / "cdh.sock"
    async with kbs, rcar_client(kbs.url) as client:
        agent = AttestingAgent(client)
        if wait:
            agent.gate.set()
        document = {"kbc": {"name": "cc_kbc", "url": kbs.url}} | (tables or {})
        config = msgspec.convert(document, CdhConfig)

        def open_server(routes: Routes) -> Server:
            return TtrpcServer(routes, f"unix://{socket}")

        hub = ConfidentialDataHub(
            config, aa or agent.channel(), open_server, runtime_dir=folder / "rt"
        )
        channel = InProcessChannel(hub.routes)
        ready, stop = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hub.run(ready=ready.set, stop=stop), name="hub")
            try:
                if wait:
                    await ready.wait()
                yield HubWorld(kbs, agent, channel, socket)
            finally:
                await channel.close()
                stop.set()
