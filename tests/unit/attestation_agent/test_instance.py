"""Instance information: what is told, to whom, and that nothing depends on it. Off by default."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from attestation_agent.config import AaConfig, InstanceConfig, with_gateway
from attestation_agent.instance import HEADER, Instance
from guest.deadline import Deadline
from guest.proxies import Proxies
from guest_simulator.kbs.server import Kbs
from support.kbs_world import rcar_client

METADATA = {
    "instance-id": "i-1",
    "instance/instance-name": "name",
    "owner-account-id": "42",
    "image-id": "img",
    "private-ipv4": "10.0.0.1",
}
ECS = {
    "instance_id": "i-1",
    "instance_name": "name",
    "owner_account_id": "42",
    "image_id": "img",
    "ip": "10.0.0.1",
}


class Cloud:
    """A metadata server and a gateway; notes what comes."""

    def __init__(self) -> None:
        self.beats: list[tuple[str | None, str | None, bytes]] = []
        self.status = 200
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "PUT":
            assert request.headers["X-aliyun-ecs-metadata-token-ttl-seconds"] == "300"
            return web.Response(text="a-token")
        if request.method == "POST":
            assert request.path == "/gate/aa-instance/heartbeat"
            headers = request.headers
            beat = (headers.get(HEADER), headers.get("Authorization"), await request.read())
            self.beats.append(beat)
            return web.Response(status=self.status)
        assert request.headers["X-aliyun-ecs-metadata-token"] == "a-token"
        name = request.path.removeprefix("/latest/meta-data/")
        if name not in METADATA:
            return web.Response(status=404)
        return web.Response(text=METADATA[name])


@asynccontextmanager
async def cloud() -> AsyncIterator[Cloud]:
    found = Cloud()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


def config(kind: str = "aliyun_ecs", **beat: object) -> InstanceConfig:
    return msgspec.convert({"instance_type": kind, "heartbeat": beat}, InstanceConfig)


def test_it_is_off_by_default() -> None:
    assert AaConfig().aa_instance.instance_type is None
    changed = with_gateway(AaConfig(), {"TRUSTEE_URL": "http://gate/"})
    assert changed.aa_instance.heartbeat.trustee_url == "http://gate"
    assert not changed.aa_instance.heartbeat.enabled


async def test_the_metadata_server_s_answers_are_written_and_told(tmp_path: Path) -> None:
    async with cloud() as found:
        file = tmp_path / "new" / "info.json"
        instance = Instance(config(), {}, Proxies(), file=file, metadata=found.url)
        assert instance.headers() == ()
        await instance.run(asyncio.Event())
    assert json.loads(file.read_text()) == ECS
    assert instance.headers() == ((HEADER, json.dumps(ECS, separators=(",", ":"))),)
    async with Kbs() as kbs, rcar_client(kbs.url, attest_headers=instance.headers) as client:
        await client.attest(Deadline.after(30))
        told = {one.path.rpartition("/")[2]: one.headers for one in kbs.requests}
    assert json.loads(told["attest"]["aainstanceinfo"]) == ECS
    assert "aainstanceinfo" not in told["auth"]


async def test_without_a_metadata_server_the_machine_s_serial_number_counts(
    tmp_path: Path,
) -> None:
    file = tmp_path / "info.json"
    serial = tmp_path / "sys/class/dmi/id/product_serial"
    for text in (None, "serial-1\n"):
        if text is not None:
            serial.parent.mkdir(parents=True)
            serial.write_text(text)
        url = "http://127.0.0.1:1"
        instance = Instance(config(), {}, Proxies(), file=file, metadata=url, root=tmp_path)
        await instance.run(asyncio.Event())
        told = json.loads(file.read_text())
        assert (told if text is None else told["instance_id"]) == (text and text.strip())


async def test_a_model_service_is_told_from_its_variables(tmp_path: Path) -> None:
    variables = {"EAS_MODEL_ID": "m", "POD_NAME": "p"}
    file = tmp_path / "info.json"
    await Instance(config("aliyun_eas"), variables, Proxies(), file=file).run(asyncio.Event())
    assert json.loads(file.read_text()) == {
        "eas_model_id": "m", "eas_instance_id": "", "eas_pod_name": "p"
    }  # fmt: skip


@pytest.mark.parametrize("status", [200, 500])
async def test_the_heart_beats_whatever_the_gateway_says(status: int, tmp_path: Path) -> None:
    async with cloud() as found:
        found.status = status
        chosen = config(
            "aliyun_eas", enabled=True, trustee_url=f"{found.url}/gate", interval_minutes=0.0005
        )
        unwritable = Path("/proc/nowhere/info.json")
        instance = Instance(chosen, {}, Proxies(), api_key="key", file=unwritable)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(instance.run(stop), name="instance")
            while len(found.beats) < 3:
                await asyncio.sleep(0.005)
            stop.set()
    (header, key, body) = found.beats[0]
    assert header is not None
    assert json.loads(header)["eas_model_id"] == ""
    assert (key, body) == ("Bearer key", b"")
