"""Pulls in trouble: how much comes twice over a network that cuts, how fast too much is refused."""

import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from bench.row import Row
from guest.deadline import Deadline
from guest.errors import GuestError
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable
from image_pull.store import syscalls
from support.pulling import Resources, insecure

MIB: Final = 1 << 20
LAYERS: Final = (32, 32, 64, 128)
"""MiB of each layer; they do not compress."""

CUTS: Final = (1 * MIB, 20 * MIB)
MANY: Final = 500
"""More connections than the pull may need."""

GIB: Final = 1 << 30
SECONDS: Final = 300.0


def rows() -> list[Row]:
    """Bytes that came over what was needed, and seconds to a refusal."""
    return [asyncio.run(_cuts()), asyncio.run(_refusal())]


@asynccontextmanager
async def _puller(base: Path, registry: Registry) -> AsyncIterator[ImagePuller]:
    rules = msgspec.convert(insecure(registry.host), RegistriesTable)
    config = ImageConfig(work_dir=str(base / "work"), registry_config=rules)
    made = build_puller(config, resources=Resources(), keys=None)
    try:
        yield made
    finally:
        await made.close()


@contextmanager
def _memory() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="cg-bench", dir="/dev/shm"))
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


async def _cuts() -> Row:
    chance = random.Random(os.urandom(8))
    layers = [
        Layer(entries=(Entry(kind=Kind.FILE, path=f"f{n}", data=chance.randbytes(size * MIB)),))
        for n, size in enumerate(LAYERS)
    ]
    image = build_image(layers)
    total = sum(len(layer.blob) for layer in image.layers)
    names = {str(layer.descriptor["digest"]) for layer in image.layers}
    with _memory() as base:
        async with Registry() as registry, _puller(base, registry) as puller:
            registry.push_image("bench/app:v1", image)
            for name in names:
                for number in range(MANY):
                    cut = chance.randrange(*CUTS)
                    registry.faults.add(Fault(path=name, cut_after=cut, skip=number, times=1))
            started = time.monotonic()
            await puller.pull(
                f"{registry.host}/bench/app:v1", base / "bundle", deadline=Deadline.after(SECONDS)
            )
            seconds = time.monotonic() - started
            asked = [each for each in registry.requests if each.path.rpartition("/")[2] in names]
            await puller.discard(base / "bundle")
    return Row(
        name="bytes of a pull whose connections are all cut after 1 to 20 MiB",
        bar=1.1,
        value=sum(each.sent for each in asked) / total,
        unit="x",
        peer=f"{total / MIB:.0f} MiB in {len(asked)} requests, {seconds:.1f} s",
    )


async def _refusal() -> Row:
    with _memory() as base:
        (base / "work").mkdir()
        mounted = _mount_small(base / "work")
        try:
            status = os.statvfs(base / "work")
            size = 10 * GIB if mounted else status.f_bavail * status.f_frsize + GIB
            async with Registry() as registry, _puller(base, registry) as puller:
                reference = _push_huge(registry, size)
                started, text = time.monotonic(), "it was not refused"
                try:
                    await puller.pull(reference, base / "b", deadline=Deadline.after(SECONDS))
                except GuestError as error:
                    text = str(error).rpartition("image: ")[2]
                seconds = time.monotonic() - started
                assert f"at least {size} bytes" in text, text
        finally:
            if mounted:
                syscalls.unmount(os.fsencode(base / "work"), detach=True)
    return Row(
        name="refusal of an image of 10 GiB by a store of 1 GiB",
        bar=1.0,
        value=seconds,
        unit="s",
        peer="nothing; " + text[text.find("image needs") :][:100],
    )


def _mount_small(place: Path) -> bool:
    try:
        syscalls.mount("small", os.fsencode(place), "tmpfs", b"size=1g")
    except OSError:
        return False
    return True


def _push_huge(registry: Registry, size: int) -> str:
    """An image whose layer is only in its manifest."""
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="f", data=b"x"),))])
    registry.push_image("bench/huge:v1", image)
    manifest = json.loads(image.manifest)
    manifest["layers"][0] |= {"size": size, "digest": "sha256:" + "ab" * 32}
    data = json.dumps(manifest).encode()
    registry.put_manifest("bench/huge", "v1", manifest["mediaType"], data)
    return f"{registry.host}/bench/huge:v1"
