"""PullImage through the data hub's socket: a policy's no, callers who leave or run out of time."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from support.kbs_hub import HubWorld, hub_world
from support.pulling import insecure, left_in_store
from support.ttrpc_wire import Wire, request

REJECT = '{"default":[{"type":"reject"}]}'


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory, where an overlay can have its upper directory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def world(base: Path, registry: Registry, policy: str | None) -> AsyncIterator[HubWorld]:
    image: dict[str, object] = {
        "work_dir": str(base / "work"),
        "registry_config": insecure(registry.host),
    }
    if policy is not None:
        image["image_security_policy"] = policy
    async with hub_world(base, tables={"image": image}) as found:
        yield found


@pytest.mark.spec("confidential-data-hub", 56)
async def test_a_policy_s_no_is_told_in_the_words_that_kata_matches(base: Path) -> None:
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="f", data=b"x"),))])
    async with Registry() as registry, world(base, registry, REJECT) as hub:
        registry.push_image("demo/app:v1", image)
        reference = f"{registry.host}/demo/app:v1"
        pull = ImagePullRequest(image_url=reference, bundle_path=str(base / "bundle"))
        wire = await Wire.connect(str(hub.socket))
        asked = request(
            1, payload=pull.SerializeToString(), service=PULL_IMAGE.service, method=PULL_IMAGE.name
        )
        code, text = (await wire.ask(asked)).status
        wire.close()
        assert code == 13
        assert text.startswith(
            f"[CDH] [ERROR]: Image Pull error: Failed to pull image {reference} from all "
            "mirror/mapping locations or original location: "
        )
        assert "Image policy rejected: Denied by policy" in text
        assert registry.requests.count("GET", "/blobs/") == 0
        assert left_in_store(base / "work") == []


@pytest.mark.parametrize("how", ["disconnect", "timeout"])
@pytest.mark.spec("ttrpc", 25)
async def test_a_caller_who_leaves_or_runs_out_of_time_leaves_nothing_half_done(
    how: str, base: Path
) -> None:
    data = os.urandom(300_000)
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="big", data=data),))])
    bundle = base / "bundle"
    async with Registry() as registry, world(base, registry, None) as hub:
        registry.push_image("demo/app:v1", image)
        digest = str(image.layers[0].descriptor["digest"])
        stall = registry.faults.add(Fault(path=digest, stall_after=100_000))
        pull = ImagePullRequest(image_url=f"{registry.host}/demo/app:v1", bundle_path=str(bundle))
        asked = request(
            1, payload=pull.SerializeToString(), service=PULL_IMAGE.service,
            method=PULL_IMAGE.name, timeout=0 if how == "disconnect" else 3_000_000_000,
        )  # fmt: skip
        wire = await Wire.connect(str(hub.socket))
        await wire.send(asked)
        while not stall.hits:
            await asyncio.sleep(0.01)
        if how == "timeout":
            assert (await wire.receive()).status[0] == 4
        wire.close()
        async with asyncio.timeout(20):
            while left_in_store(base / "work") or (bundle / "rootfs").exists():
                await asyncio.sleep(0.02)
        assert not bundle.exists() or list(bundle.iterdir()) == []
        assert hub.agent.tokens == 0
        registry.faults.clear()
        with pytest.raises(GuestError):  # this hub's agent measures nothing
            await hub.channel.call(PULL_IMAGE, pull, deadline=Deadline.after(40))
        assert sorted(bundle.rglob("*")) in ([], [bundle / "rootfs"])
        assert not os.path.ismount(bundle / "rootfs")
