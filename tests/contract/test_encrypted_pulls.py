"""PullImage of encrypted images through the whole hub: wrong keys, one key for many layers."""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest.secret import Secret
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.registry.rules import RegistriesTable
from image_pull.store.overlay import Overlays
from support.encrypted_image import push_encrypted, wrapped_by_kek
from support.kbs_hub import HubWorld, hub_world
from support.pulling import Resources, insecure
from support.ttrpc_wire import Wire, request

KEK = bytes(range(32))
KID = "kbs:///default/image-kek/1"
PATH = "/resource/default/image-kek/1"
DECRYPT_FAILED = (
    "Failed to decrypt layer: Failed to decrypt the image layer, "
    "please ensure that the decryption key is placed and correct"
)


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are copied into the bundle: nothing is mounted, nothing needs root."""
    monkeypatch.setattr(Overlays, "why_not", lambda self: "test")


def image_of(layers: int) -> Image:
    return build_image(
        [
            Layer(entries=(Entry(kind=Kind.FILE, path=f"f{n}", data=os.urandom(2000)),))
            for n in range(layers)
        ]
    )


@asynccontextmanager
async def world(
    base: Path, registry: Registry, *, more: dict[str, object] | None = None, **image: object
) -> AsyncIterator[HubWorld]:
    table = {"work_dir": str(base / "work"), "registry_config": insecure(registry.host)} | image
    async with hub_world(base, tables={"image": table, **(more or {})}) as found:
        yield found


async def pull(hub: HubWorld, reference: str, bundle: Path) -> tuple[int, str]:
    """Status of PullImage over the socket."""
    message = ImagePullRequest(image_url=reference, bundle_path=str(bundle))
    wire = await Wire.connect(str(hub.socket))
    try:
        asked = request(
            1,
            payload=message.SerializeToString(),
            service=PULL_IMAGE.service,
            method=PULL_IMAGE.name,
        )
        return (await wire.ask(asked)).status
    finally:
        wire.close()


@pytest.mark.spec("ocicrypt", 34)
@pytest.mark.parametrize(
    ("held", "why"),
    [
        (KEK[:31], "has 31 bytes, not 32"),
        (KEK + b"\0", "has 33 bytes, not 32"),
        (b"", "has 0 bytes, not 32"),
        (bytes(32), "decrypt LEK using KEK failed"),
        (None, ""),
    ],
    ids=["short", "long", "empty", "another", "missing"],
)
async def test_the_caller_is_told_that_the_key_is_not_placed_or_not_correct(
    base: Path, held: bytes | None, why: str
) -> None:
    async with Registry() as registry, world(base, registry) as hub:
        if held is not None:
            hub.kbs.put_resource("default/image-kek/1", held)
        reference = push_encrypted(registry, "t/secret", image_of(1), wrapped_by_kek(KEK, KID))
        code, text = await pull(hub, reference, base / "bundle")
        assert code == 13
        assert text.startswith(f"[CDH] [ERROR]: Image Pull error: Failed to pull image {reference}")
        assert DECRYPT_FAILED in text
        assert why in text
        assert KEK.hex() not in text
        assert not (base / "bundle" / "rootfs").exists()
        assert list((base / "work" / "staging").iterdir()) == []


@pytest.mark.spec("ocicrypt", 39)
async def test_layers_that_share_a_kid_cost_one_fetch_and_the_next_pull_another(base: Path) -> None:
    async with (
        Registry() as registry,
        world(base, registry, max_concurrent_layer_downloads_per_image=8) as hub,
    ):
        hub.kbs.put_resource("default/image-kek/1", KEK)
        wrap = wrapped_by_kek(KEK, KID)
        reference = push_encrypted(registry, "t/many", image_of(20), wrap)
        _, text = await pull(hub, reference, base / "first")
        assert "Attestation Agent client error" in text  # all layers are there: only AA is not
        assert hub.kbs.requests.count("GET", PATH) == 1
        reference = push_encrypted(registry, "t/more", image_of(5), wrap)
        await pull(hub, reference, base / "second")
        assert hub.kbs.requests.count("GET", PATH) == 2


PROVIDER = """
import base64, json, sys
packet = base64.b64decode(json.load(sys.stdin)["keyunwrapparams"]["annotation"])
print(json.dumps({"keyunwrapresults": {"optsdata": list(packet)}}))
"""
"""A provider whose packets are the options themselves."""


async def test_the_providers_of_a_file_that_somebody_named_are_asked_instead_of_this_hub(
    base: Path,
) -> None:
    file = base / "ocicrypt.json"
    more: dict[str, object] = {"ocicrypt_keyprovider_config": str(file)}
    async with Registry() as registry, world(base, registry, more=more) as hub:
        reference = push_encrypted(registry, "t/open", image_of(2), lambda options: options)
        _, text = await pull(hub, reference, base / "bundle")
        assert DECRYPT_FAILED in text
        assert f"ocicrypt configuration {file} cannot be read" in text
        command = {"cmd": {"path": sys.executable, "args": ["-c", PROVIDER]}}
        file.write_text(json.dumps({"key-providers": {"mine": command}}))
        _, text = await pull(hub, reference, base / "bundle")
        assert "Attestation Agent client error" in text
        own = {"ttrpc": f"unix://{hub.socket}"}
        file.write_text(json.dumps({"key-providers": {"attestation-agent": own}}))
        hub.kbs.put_resource("default/image-kek/1", KEK)
        wrap = wrapped_by_kek(KEK, KID)
        reference = push_encrypted(registry, "t/own", image_of(2), wrap)
        _, text = await pull(hub, reference, base / "bundle")
        assert "Attestation Agent client error" in text
        assert hub.kbs.requests.count("GET", PATH) == 1


@pytest.mark.spec("ocicrypt", 40)
async def test_a_slow_answer_for_one_layer_holds_up_no_other_layer(base: Path) -> None:
    release, asked = asyncio.Event(), 0

    class Slow:
        async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
            nonlocal asked
            asked += 1
            if asked == 1:
                await release.wait()
            packet = json.loads(request)["keyunwrapparams"]["annotation"]
            options = list(base64.b64decode(packet))
            return Secret(json.dumps({"keyunwrapresults": {"optsdata": options}}).encode())

    async with Registry() as registry:
        reference = push_encrypted(registry, "t/slow", image_of(4), lambda options: options)
        rules = msgspec.convert(insecure(registry.host), RegistriesTable)
        config = ImageConfig(
            work_dir=str(base / "work"),
            registry_config=rules,
            max_concurrent_layer_downloads_per_image=1,
        )
        puller = build_puller(config, resources=Resources(), keys=Slow())
        try:
            work = puller.pull(reference, base / "bundle", deadline=Deadline.after(50))
            pulling = asyncio.create_task(work, name="pull")
            async with asyncio.timeout(40):
                while registry.requests.count("GET", "/blobs/", 200) < 4:  # config, three layers
                    assert not pulling.done()
                    await asyncio.sleep(0.01)
            assert asked == 4
            release.set()
            await pulling
            assert len(list((base / "bundle" / "rootfs").iterdir())) == 4
        finally:
            release.set()
            await puller.close()
