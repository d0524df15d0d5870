"""What pulls add up to: outcomes, bytes and the jail, without a word about any image."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError
from guest.metrics import Metrics
from guest.rpc.status import Code
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.layers.record import Jail
from image_pull.metrics import JAIL, LAYER_SECONDS, PULL_SECONDS, RECEIVED, UNPACKED, PullMetrics
from image_pull.observer import LayerOutcome, Unobserved, code_after
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable
from support.pulling import Resources, insecure

BLOBS = r"/blobs/"


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory, where an overlay can have its upper directory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


@asynccontextmanager
async def puller(base: Path, registry: Registry, metrics: Metrics) -> AsyncIterator[ImagePuller]:
    rules = msgspec.convert(insecure(registry.host), RegistriesTable)
    config = ImageConfig(work_dir=str(base / "work"), registry_config=rules)
    made = build_puller(config, resources=Resources(), keys=None, observer=PullMetrics(metrics))
    try:
        yield made
    finally:
        await made.close()


def image() -> Image:
    lower = Layer(entries=(Entry(kind=Kind.FILE, path="a", data=os.urandom(200_000)),))
    upper = Layer(entries=(Entry(kind=Kind.FILE, path="b", data=b"upper"),))
    return build_image([lower, upper])


async def test_a_pull_counts_its_layers_bytes_and_jail_and_a_second_one_reuses(
    base: Path,
) -> None:
    metrics, made = Metrics(), image()
    async with Registry() as registry, puller(base, registry, metrics) as puller_:
        registry.push_image("secret/name:v1", made)
        for bundle in ("one", "two"):
            await puller_.pull(
                f"{registry.host}/secret/name:v1", base / bundle, deadline=Deadline.after(50)
            )
    assert metrics.value(PULL_SECONDS, "OK") == 2
    assert metrics.value(LAYER_SECONDS, "stored", "OK") == 2
    assert metrics.value(LAYER_SECONDS, "reused", "OK") == 2
    assert metrics.value(RECEIVED) == sum(len(layer.blob) for layer in made.layers)
    assert metrics.value(UNPACKED) == sum(len(layer.tar) for layer in made.layers)
    assert sum(metrics.value(JAIL, jail) for jail in Jail) == 1
    if os.geteuid() == 0:
        assert metrics.value(JAIL, "full") == 1
    text = metrics.expose().decode()
    for name in ("bytes_total", "unpacked_bytes_total", "layer_seconds_count", "seconds_count"):
        assert f"\ncoco_image_pull_{name}" in text
    assert "secret" not in text
    assert "sha256" not in text
    assert registry.host not in text


async def test_failures_count_by_their_exact_status(base: Path) -> None:
    metrics = Metrics()
    async with Registry() as registry, puller(base, registry, metrics) as puller_:
        registry.push_image("demo/app:v1", image())
        registry.faults.add(Fault(path=BLOBS, flip=700, skip=1))
        for name in ("A B", f"{registry.host}/demo/none:v1", f"{registry.host}/demo/app:v1"):
            with pytest.raises(GuestError):
                await puller_.pull(name, base / "bundle", deadline=Deadline.after(50))
    assert metrics.value(PULL_SECONDS, "INVALID_ARGUMENT") == 1
    assert metrics.value(PULL_SECONDS, "NOT_FOUND") == 1
    assert metrics.value(PULL_SECONDS, "DATA_LOSS") == 1
    assert metrics.value(LAYER_SECONDS, "failed", "DATA_LOSS") >= 1
    assert metrics.value(UNPACKED) <= 1 << 20


def test_the_last_server_s_jail_is_the_one_that_is_shown() -> None:
    metrics = Metrics()
    observer = PullMetrics(metrics)
    for jail in (Jail.FULL, Jail.LANDLOCK):
        observer.jail_chosen(jail)
    assert [metrics.value(JAIL, jail) for jail in Jail] == [0, 1, 0]
    assert 'coco_image_pull_jail_info{jail="landlock"} 1.0' in metrics.expose().decode()


def test_what_ended_a_pull_has_a_status() -> None:
    assert code_after(DeniedError("x")) is Code.PERMISSION_DENIED
    assert code_after(asyncio.CancelledError()) is Code.CANCELLED
    assert code_after(KeyError("a bug")) is Code.INTERNAL


def test_nobody_has_to_count() -> None:
    nobody = Unobserved()
    nobody.jail_chosen(Jail.FULL)
    nobody.bytes_received(1)
    nobody.layer_ended(LayerOutcome.STORED, Code.OK, 1.0, 1)
    nobody.pull_ended(Code.OK, 1.0)
