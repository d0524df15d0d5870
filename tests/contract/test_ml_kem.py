"""An ML-KEM key from the agent's configuration to the hub's answer; the KBS wraps by itself."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from cdh.component import ConfidentialDataHub
from cdh.config import CdhConfig
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import cdh_pb2
from guest.protos.methods import GET_RESOURCE
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import Channel, Routes
from guest.rpc.server import Server
from guest.ttrpc.server import TtrpcServer
from guest_simulator.faults import Fault, Lie
from guest_simulator.kbs.server import Kbs
from support.agents import config_of, make_agent, running


async def get(channel: Channel) -> bytes:
    """GetResource."""
    request = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///default/key/1")
    return (await channel.call(GET_RESOURCE, request, deadline=Deadline.after(30))).Resource


async def test_a_resource_is_read_with_an_ml_kem_key_of_the_agent(short_tmp: Path) -> None:
    async with Kbs() as kbs:
        kbs.put_resource("default/key/1", b"the secret")
        tokens = {"kbs": {"url": kbs.url, "tee_key_algorithm": "ML-KEM-768+A192KW"}}
        made = make_agent(short_tmp / "root", config_of(token_configs=tokens))
        config = msgspec.convert({"kbc": {"name": "cc_kbc", "url": kbs.url}}, CdhConfig)

        def open_server(routes: Routes) -> Server:
            return TtrpcServer(routes, f"unix://{short_tmp}/cdh.sock")

        async with running(made) as agent:
            hub = ConfidentialDataHub(config, agent, open_server, runtime_dir=short_tmp / "rt")
            channel = InProcessChannel(hub.routes)
            ready, stop = asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(hub.run(ready=ready.set, stop=stop), name="hub")
                try:
                    await ready.wait()
                    assert await get(channel) == b"the secret"
                    kbs.faults.add(Fault(path="/resource/", lie=Lie.FOREIGN_KEY, times=1))
                    with pytest.raises(GuestError, match=r"\[CDH\] \[ERROR\]: Get Resource failed"):
                        await get(channel)
                    assert await get(channel) == b"the secret"
                finally:
                    await channel.close()
                    stop.set()
        assert kbs.attestations >= 1
