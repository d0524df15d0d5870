"""The data hub between an agent and a KBS: what it asks for, how often, and under which id."""

import asyncio
import http.client
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, NotFoundError, PeerError
from guest.protos.cdh_pb2 import GetResourceRequest
from guest.protos.detail_pb2 import ErrorDetail
from guest.protos.methods import GET_RESOURCE
from guest.protos.ttrpc_pb2 import KeyValue, Request
from guest.rpc.status import DETAIL_TYPE_URL
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.faults import Fault
from guest_simulator.kbs.policy import allow_all, deny_all
from support.agents import agent_process
from support.kbs_hub import HubWorld, hub_world
from support.ttrpc_wire import Frame, Wire

READS = 1000
RESOURCES = 100
REQUESTS = 500


async def ask(world: HubWorld, uri: str, *metadata: tuple[str, str]) -> ErrorDetail:
    """GetResource that fails; gives the detail of the failure as it was on the wire."""
    wire = await Wire.connect(str(world.socket))
    request = Request(
        service=GET_RESOURCE.service,
        method=GET_RESOURCE.name,
        payload=GetResourceRequest(ResourcePath=uri).SerializeToString(),
        metadata=[KeyValue(key=key, value=value) for key, value in metadata],
    )
    await wire.send(Frame(1, 1, 0, request.SerializeToString()))
    status = (await wire.receive()).response.status
    wire.writer.close()
    assert (status.code, status.message) == (13, "[CDH] [ERROR]: Get Resource failed")
    (packed,) = status.details
    assert packed.type_url == DETAIL_TYPE_URL
    return ErrorDetail.FromString(packed.value)


async def test_a_failure_has_one_id_in_its_details_the_log_and_at_the_kbs(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with hub_world(short_tmp) as world:
        detail = await ask(world, "kbs:///default/key/absent")
        records = world.kbs.requests.matching(path="/kbs/v0/")
        asked = [record.path.rpartition("/")[2] for record in records]
        assert asked == ["auth", "attest", "absent"]
        assert {record.headers["x-request-id"] for record in records} == {detail.request_id}
        assert re.fullmatch("[0-9a-f]{16}", detail.request_id)
        world.kbs.requests.clear()
        given = await ask(world, "kbs:///default/key/absent", ("x-request-id", "from-caller.1"))
        assert given.request_id == "from-caller.1"
        other = await ask(world, "kbs:///default/key/absent", ("x-request-id", "\nx: y"))
        assert re.fullmatch("[0-9a-f]{16}", other.request_id)
        seen = [record.headers["x-request-id"] for record in world.kbs.requests]
        assert seen == ["from-caller.1", other.request_id]
    ended = [vars(record) for record in caplog.records if record.msg == "call ended"]
    logged = [entry for entry in ended if entry.get("request") == detail.request_id]
    assert any(entry.get("causes") == list(detail.causes) for entry in logged)
    assert detail.causes[0].startswith("KBS")


async def test_many_cold_reads_cost_one_attestation_and_one_request_a_resource(
    short_tmp: Path,
) -> None:
    async with hub_world(short_tmp) as world:
        for number in range(RESOURCES):
            world.kbs.put_resource(f"default/key/{number}", b"%d" % number)
        channels = [TtrpcChannel(f"unix://{world.socket}") for _ in range(4)]

        async def read(number: int) -> None:
            request = GetResourceRequest(ResourcePath=f"kbs:///default/key/{number % RESOURCES}")
            channel = channels[number % len(channels)]
            answer = await channel.call(GET_RESOURCE, request, deadline=Deadline.after(50))
            assert answer.Resource == b"%d" % (number % RESOURCES)

        async with asyncio.TaskGroup() as group:
            for number in range(READS):
                group.create_task(read(number), name=f"read {number}")
        for channel in channels:
            await channel.close()
        assert world.agent.tokens == world.kbs.attestations == 1
        assert world.kbs.requests.count("GET", "/resource/") == RESOURCES


@pytest.mark.parametrize(
    ("kind", "error"),
    [("denied", DeniedError), ("missing", NotFoundError), ("malformed", PeerError)],
)
async def test_what_is_denied_missing_or_malformed_is_final_after_one_request(
    short_tmp: Path, kind: str, error: type[GuestError]
) -> None:
    policy = deny_all if kind == "denied" else allow_all
    async with hub_world(short_tmp, policy=policy) as world:
        if kind == "missing":
            world.kbs.faults.add(Fault(path="/resource/", status=404))
        if kind == "malformed":
            world.kbs.faults.add(Fault(path="/resource/", body=b'{"protected":"e30"}', status=200))
        with pytest.raises(error, match=r"^\[CDH\] \[ERROR\]: Get Resource failed"):
            await world.get()
        assert world.kbs.requests.count("GET", "/resource/") == 1
        assert world.agent.tokens == 1


async def test_a_black_hole_of_one_resource_holds_up_no_other(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        world.kbs.put_resource("default/key/2", b"other")
        world.kbs.faults.add(Fault(path="/key/1", stall_after=0))
        async with asyncio.TaskGroup() as group:
            lost = [group.create_task(world.get(seconds=20), name="lost") for _ in range(50)]
            for _ in range(100):
                assert await world.get("kbs:///default/key/2") == b"other"
            assert not any(task.done() for task in lost)
            for task in lost:
                task.cancel()


async def test_a_fallback_address_serves_while_the_first_is_down(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        tables = {"kbc": {"name": "cc_kbc", "url": "http://127.0.0.1:1"}}
        tables["kbc"]["fallback_urls"] = [world.kbs.url]  # type: ignore[assignment]  # a table
        second = short_tmp / "second"
        second.mkdir()
        async with hub_world(second, tables=dict(tables)) as other:
            other.kbs.put_resource("default/key/1", b"never asked")
            other.agent.client = world.agent.client
            assert await other.get("kbs://127.0.0.1:9/default/key/1") == b"the secret"
            assert other.kbs.requests.count("GET", "/resource/") == 0


async def test_two_clients_and_the_kbs_count_the_same_requests(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        await world.get()
        (first,) = world.kbs.requests.matching("GET", "/resource/")
        headers = {"Authorization": first.headers["authorization"]}
        path = "/kbs/v0/resource/default/key/1"
        world.kbs.requests.clear()
        async with aiohttp.ClientSession() as session:
            for _ in range(7):
                async with session.get(world.kbs.url + path, headers=headers) as answer:
                    assert answer.status == 200
                    await answer.read()
        assert world.kbs.requests.count("GET", path, status=200) == 7

        def independent() -> Iterator[int]:
            connection = http.client.HTTPConnection("127.0.0.1", world.kbs.port, timeout=20)
            for _ in range(5):
                connection.request("GET", path, headers=headers)
                reply = connection.getresponse()
                json.loads(reply.read())
                yield reply.status
            connection.close()

        assert await asyncio.to_thread(lambda: list(independent())) == [200] * 5
        assert world.kbs.requests.count("GET", path, status=200) == 12
        for _ in range(3):
            await world.get()
        assert world.kbs.requests.count("GET", path, status=200) == 15
        assert len(world.kbs.requests) == 15


async def test_an_agent_that_restarts_amid_many_requests_loses_none(short_tmp: Path) -> None:
    socket = short_tmp / "aa.sock"
    aa = TtrpcChannel(f"unix://{socket}")
    async with hub_world(short_tmp, aa=aa, token_seconds=1) as world:
        config = short_tmp / "aa.toml"
        config.write_text(
            f'[attester]\ntee = "sample"\n[token_configs.kbs]\nurl = "{world.kbs.url}"\n'
        )

        async def read(number: int) -> None:
            await asyncio.sleep(number * 0.008)
            assert await world.get(seconds=40) == b"the secret"

        with ExitStack() as agents:

            def start() -> None:
                agents.enter_context(agent_process(socket, ("-c", str(config))))

            await asyncio.to_thread(start)
            async with asyncio.TaskGroup() as group:
                for number in range(REQUESTS):
                    group.create_task(read(number), name=f"read {number}")
                await asyncio.sleep(1.5)
                agents.close()
                await asyncio.sleep(0.5)
                await asyncio.to_thread(start)
        assert world.kbs.attestations > 2
