"""Room in the store, through the whole puller: what is refused early, what is given back."""

import asyncio
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.metrics import Metrics
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull import progress as progress_module
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.metrics import PLANNED, PLANNED_LAYERS, RECEIVED, PullMetrics
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable
from image_pull.store import syscalls
from support.pulling import Resources, insecure, left_in_store

GIB = 1 << 30


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory, where an overlay can have its upper directory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def memory(place: Path, size: str) -> Iterator[None]:
    """A file system of its own."""
    place.mkdir()
    syscalls.mount("small", os.fsencode(place), "tmpfs", f"size={size}".encode())
    try:
        yield
    finally:
        syscalls.unmount(os.fsencode(place), detach=True)


@asynccontextmanager
async def puller(
    base: Path, registry: Registry, metrics: Metrics | None = None, **table: object
) -> AsyncIterator[ImagePuller]:
    rules = msgspec.convert(insecure(registry.host), RegistriesTable)
    config = ImageConfig(work_dir=str(base / "work"), registry_config=rules, **table)  # type: ignore[arg-type]  # free fields
    observer = PullMetrics(metrics or Metrics())
    made = build_puller(config, resources=Resources(), keys=None, observer=observer)
    try:
        yield made
    finally:
        await made.close()


def image_of(*files: tuple[str, bytes]) -> Image:
    entries = [Entry(kind=Kind.FILE, path=path, data=data) for path, data in files]
    return build_image([Layer(entries=(entry,)) for entry in entries])


async def pull(made: ImagePuller, registry: Registry, name: str, bundle: Path) -> Path:
    reference = f"{registry.host}/demo/{name}:v1"
    await made.pull(reference, bundle, deadline=Deadline.after(50))
    return bundle / "rootfs"


def unpacked(base: Path) -> set[str]:
    return {path.name for path in (base / "work" / "unpacked").glob("*/tree/*")}


def push_huge(registry: Registry, size: int) -> str:
    """An image whose manifest says how long its layer is; the layer itself is not there."""
    image = image_of(("f", b"x"))
    registry.push_image("demo/huge:v1", image)
    manifest = json.loads(image.manifest)
    manifest["layers"][0] |= {"size": size, "digest": "sha256:" + "ab" * 32}
    data = json.dumps(manifest).encode()
    registry.put_manifest("demo/huge", "v1", manifest["mediaType"], data)
    return f"{registry.host}/demo/huge:v1"


@pytest.mark.root
@pytest.mark.mount
async def test_ten_gib_for_a_store_of_one_are_refused_at_once_with_both_numbers(
    base: Path,
) -> None:
    with memory(base / "work", "1g"):
        async with Registry() as registry, puller(base, registry) as made:
            reference = push_huge(registry, 10 * GIB)
            started = time.monotonic()
            with pytest.raises(GuestError, match="Failed to pull image") as caught:
                await made.pull(reference, base / "bundle", deadline=Deadline.after(50))
            assert time.monotonic() - started < 10  # the bar of 1 s is measured by the bench
            assert f"needs at least {10 * GIB} bytes" in str(caught.value)
            free = str(caught.value).rpartition("the store has ")[2].split()[0]
            assert 0.9 * GIB < int(free) <= GIB
            assert registry.requests.count("GET", "ab" * 32) == 0
            assert left_in_store(base / "work") == []


async def test_a_layer_beyond_the_configured_maximum_is_refused_before_it_is_asked_for(
    base: Path,
) -> None:
    async with Registry() as registry, puller(base, registry, max_unpacked_bytes=GIB) as made:
        reference = push_huge(registry, GIB + 1)
        with pytest.raises(GuestError, match=f"a layer has {GIB + 1} bytes, more than the {GIB}"):
            await made.pull(reference, base / "bundle", deadline=Deadline.after(50))
        assert registry.requests.count("GET", "ab" * 32) == 0


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.spec("image-pull", 49)
async def test_layers_and_directories_of_a_removed_container_go_and_those_of_others_stay(
    base: Path,
) -> None:
    async with Registry() as registry:
        for name in ("one", "two", "three"):
            registry.push_image(f"demo/{name}:v1", image_of((name, os.urandom(1000))))
        async with puller(base, registry, keep_unused_layers_seconds=0) as made:
            first = await pull(made, registry, "one", base / "one")
            second = await pull(made, registry, "two", base / "two")
            (first / "written").write_bytes(b"x" * 1000)
            syscalls.unmount(os.fsencode(first), detach=False)  # kata-agent tells nobody
            third = await pull(made, registry, "three", base / "three")
            assert unpacked(base) == {"two", "three"}
            assert len(list((base / "work" / "mounts").iterdir())) == 2
            assert (second / "two").exists()
            assert (third / "three").exists()
            for name in ("two", "three"):
                await made.discard(base / name)


@pytest.mark.root
@pytest.mark.mount
async def test_what_the_last_container_leaves_goes_without_another_pull(base: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/one:v1", image_of(("one", os.urandom(1000))))
        async with puller(base, registry, keep_unused_layers_seconds=0) as made:
            await made.tidy()
            assert not (base / "work").exists()
            rootfs = await pull(made, registry, "one", base / "one")
            await made.tidy()
            assert (rootfs / "one").exists()
            syscalls.unmount(os.fsencode(rootfs), detach=False)
            await made.tidy()
            assert unpacked(base) == set()
            assert list((base / "work" / "mounts").iterdir()) == []
            shutil.rmtree(base / "work" / "mounts")
            await made.tidy()


async def test_what_another_pull_has_so_far_is_not_taken_away_from_it(base: Path) -> None:
    slow = image_of(("low", os.urandom(1000)), ("high", os.urandom(200_000)))
    async with Registry() as registry:
        registry.push_image("demo/slow:v1", slow)
        registry.push_image("demo/quick:v1", image_of(("quick", b"x")))
        digest = str(slow.layers[1].descriptor["digest"])
        stall = registry.faults.add(Fault(path=digest, delay=20, times=1))
        async with puller(base, registry, keep_unused_layers_seconds=0) as made:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(pull(made, registry, "slow", base / "slow"))
                while not stall.hits or "low" not in unpacked(base):
                    await asyncio.sleep(0.01)
                await pull(made, registry, "quick", base / "quick")
                assert unpacked(base) >= {"low", "quick"}
                task.cancel()
            await made.discard(base / "quick")
            registry.push_image("demo/last:v1", image_of(("last", b"x")))
            await pull(made, registry, "last", base / "last")
            assert unpacked(base) == {"last"}
            await made.discard(base / "last")


@pytest.mark.root
@pytest.mark.mount
async def test_images_in_turn_fit_where_all_of_them_do_not(base: Path) -> None:
    with memory(base / "work", "8m"):
        async with Registry() as registry, puller(base, registry) as made:
            for number in range(6):
                image = image_of((f"f{number}", os.urandom(3_000_000)))
                registry.push_image(f"demo/i{number}:v1", image)
                rootfs = await pull(made, registry, f"i{number}", base / "bundle")
                assert (rootfs / f"f{number}").exists()
                await made.discard(base / "bundle")


def fill(place: Path, leaving: int) -> None:
    """What another process does to a file system; so many bytes are left."""
    status = os.statvfs(place)
    with open(place / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leaving)


async def pull_while_it_fills(
    made: ImagePuller, registry: Registry, base: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Pull an image of 4 MB into a store that is filled when a part of it is unpacked."""
    monkeypatch.setattr("image_pull.registry.client.STALL", 0.5)
    image = image_of(("big", os.urandom(4_000_000)))
    registry.push_image("demo/big:v1", image)
    digest = str(image.layers[0].descriptor["digest"])
    registry.faults.add(Fault(path=digest, stall_after=2_000_000, times=1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pull(made, registry, "big", base / "big"))
        trees = (base / "work" / "staging").glob
        while not any(file.stat().st_size > 1_500_000 for file in trees("*/tree/big")):
            await asyncio.sleep(0.01)
        fill(base / "work", 1_000_000)
    return task.result()


@pytest.mark.root
@pytest.mark.mount
async def test_a_store_that_fills_during_a_pull_gives_back_what_nobody_uses(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory(base / "work", "24m"):
        async with Registry() as registry, puller(base, registry) as made:
            registry.push_image("demo/old:v1", image_of(("old", os.urandom(3_000_000))))
            await pull(made, registry, "old", base / "old")
            await made.discard(base / "old")
            rootfs = await pull_while_it_fills(made, registry, base, monkeypatch)
            assert (rootfs / "big").stat().st_size == 4_000_000
            assert unpacked(base) == {"big"}
            assert left_in_store(base / "work") == []
            await made.discard(base / "big")


@pytest.mark.root
@pytest.mark.mount
async def test_a_store_that_stays_full_fails_the_pull_with_both_numbers_and_keeps_nothing_of_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory(base / "work", "24m"):
        async with Registry() as registry, puller(base, registry) as made:
            registry.push_image("demo/used:v1", image_of(("used", os.urandom(3_000_000))))
            shown = await pull(made, registry, "used", base / "used")
            with pytest.raises(ExceptionGroup) as caught:
                await pull_while_it_fills(made, registry, base, monkeypatch)
            (error,) = caught.value.exceptions
            said = re.search(
                r"Failed to pull image .* at least (\d+) bytes, the store has (\d+) bytes free",
                str(error),
                re.DOTALL,
            )
            assert said, error
            assert 4_000_000 < int(said[1]) < 4_100_000
            assert int(said[2]) < 4_000_000
            assert unpacked(base) == {"used"}
            assert left_in_store(base / "work") == []
            assert not (base / "big" / "config.json").exists()
            assert (shown / "used").stat().st_size == 3_000_000
            (base / "work" / "filler").unlink()
            await pull(made, registry, "big", base / "big")
            for name in ("used", "big"):
                await made.discard(base / name)


@pytest.mark.root
@pytest.mark.mount
async def test_what_unpacks_to_more_than_there_is_takes_the_room_of_what_nobody_uses(
    base: Path,
) -> None:
    with memory(base / "work", "16m"):
        async with Registry() as registry, puller(base, registry) as made:
            for name, size in (("old", 5), ("large", 14), ("too", 20)):
                data = os.urandom(4_000_000) if name == "old" else bytes(size * 1_000_000)
                registry.push_image(f"demo/{name}:v1", image_of((name, data)))
            await pull(made, registry, "old", base / "old")
            await made.discard(base / "old")
            await pull(made, registry, "large", base / "large")
            assert unpacked(base) == {"large"}
            await made.discard(base / "large")
            with pytest.raises(GuestError, match=r"needs at least \d+ bytes, the store has"):
                await pull(made, registry, "too", base / "too")
            assert unpacked(base) == set()
            assert left_in_store(base / "work") == []


async def test_a_pull_tells_log_and_metrics_how_far_it_is(
    base: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "LOG_SECONDS", 0.0)
    image = image_of(("a", os.urandom(300_000)), ("b", os.urandom(300_000)))
    sizes = [len(layer.blob) for layer in image.layers]
    metrics = Metrics()
    async with Registry() as registry, puller(base, registry, metrics) as made:
        registry.push_image("demo/app:v1", image)
        with caplog.at_level(logging.INFO, "image_pull.progress"):
            await pull(made, registry, "app", base / "bundle")
        assert metrics.value(PLANNED) == metrics.value(RECEIVED) == sum(sizes)
        assert metrics.value(PLANNED_LAYERS) == 2
        said = [vars(each) for each in caplog.records if each.name == "image_pull.progress"]
        begin, *rest, end = said
        assert begin["message"] == "image pull begins"
        assert (begin["bytes"], begin["bytes_needed"]) == (0, sum(sizes))
        assert 0 < begin["seconds_left"] <= 50
        assert rest
        assert (end["bytes"], end["layers"], end["layers_needed"]) == (sum(sizes), 2, 2)
        assert end["bytes_per_second"] > 0
        caplog.clear()
        with caplog.at_level(logging.INFO, "image_pull.progress"):
            await pull(made, registry, "app", base / "again")
        assert vars(caplog.records[-1])["bytes_needed"] == 0
        assert metrics.value(PLANNED_LAYERS) == 2
        for name in ("bundle", "again"):
            await made.discard(base / name)
