"""Death by SIGKILL: the store is whole, nothing half is seen, the next pull makes good."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.registry.rules import RegistriesTable
from support.death_matrix import run_matrix
from support.pulling import Resources, insecure

NAMES = ["a", "b"]
COLLECTING = 12
"""As in the program that dies."""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "way", ["copied", pytest.param("mounted", marks=[pytest.mark.root, pytest.mark.mount])]
)
async def test_no_death_of_the_puller_leaves_half_a_layer_or_half_a_bundle(
    way: str, tmp_path: Path, repository: Path
) -> None:
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else tmp_path
    entries = [Entry(kind=Kind.FILE, path=name, data=os.urandom(70_000)) for name in NAMES]
    image = build_image([Layer(entries=(entry,)) for entry in entries])
    sizes = [len(layer.blob) for layer in image.layers]
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", image)
        unused = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="z", data=b"z"),))])
        registry.push_image("demo/other:v1", unused)
        host = registry.host
        names = (f"{host}/demo/app:v1", f"{host}/demo/other:v1")
        module = "support.pull_crash_matrix"
        lives = await run_matrix(repository, module, str(place), host, *names, way)
    whole, collected, undone = (each for each in lives if each["kind"].startswith("whole"))
    deaths = [each for each in lives if not each["kind"].startswith("whole")]
    assert (whole["status"], whole["pull"], whole["bytes"]) == (0, digest, sum(sizes))
    assert (undone["status"], undone["undo"]) == (0, "done")
    assert undone["left"] in ([], ["rootfs"])
    assert {"rename", "link", "unlink", "mkdir", "pwrite", "open"} <= set(whole["calls"])
    assert ("move_mount" in whole["calls"]) == (way == "mounted")
    if way == "mounted":
        assert {"fsmount", "unmount"} <= set(whole["calls"])
    assert collected["calls"][0] == "rename"
    assert "mkdir" in collected["calls"][:COLLECTING]
    count = len(whole["calls"]) + COLLECTING + len(undone["calls"]) + 3
    assert len(deaths) == count
    for death in deaths:
        _judge(death, digest, sizes)


def _judge(death: dict[str, Any], digest: str, sizes: list[int]) -> None:
    first, found, second = (death[key] for key in ("first", "found", "second"))
    assert first["status"] == -signal.SIGKILL, death
    assert all(len(layer["names"]) == 1 for layer in found["layers"]), death  # each is whole
    names = {name for layer in found["layers"] for name in layer["names"]}
    assert names <= {*NAMES, "z"}, death
    there = sum(sizes[NAMES.index(name)] for name in names - {"z"})
    if found["config"] and not found["mark"]:  # whole, but its caller was never told
        assert found["rootfs"] == NAMES, death
        assert "OCI config file already exists" in second["pull"], death
        assert second["bytes"] == 0, death
    else:
        assert second["pull"] == digest, death
        assert second["bytes"] == sum(sizes) - there, death
    if death["kind"] != "undo":  # of what had come less than one layer comes again
        assert first["bytes"] - there <= max(sizes), death
    again = second["after pull"]
    assert again["rootfs"] == NAMES, death
    assert again["config"], death
    assert not again["mark"], death
    assert len(again["layers"]) == len(NAMES), death
    assert second["undo"] == "done", death
    assert death["left"] in ([], ["rootfs"]), death


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def _unpackers() -> tuple[int, int]:
    """The unpack server's process and a worker's: the child that has no child."""
    line, pid = [], os.getpid()
    while children := _children(pid):
        unpackers = [each for each in children if _is_unpacker(each)]
        if not unpackers:
            break
        pid = unpackers[-1]
        line.append(pid)
    return line[0], line[-1]


def _is_unpacker(pid: int) -> bool:
    try:
        return b"image_pull.layers.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("victim", ["server", "worker"])
@pytest.mark.parametrize("after", [1, 60_000])
async def test_the_death_of_an_unpacker_fails_a_pull_that_stalls_and_the_next_one_works(
    victim: str, after: int, short_tmp: Path
) -> None:
    entries = [Entry(kind=Kind.FILE, path=name, data=os.urandom(70_000)) for name in NAMES]
    image = build_image([Layer(entries=(entry,)) for entry in entries])
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", image)
        reference = f"{registry.host}/demo/app:v1"
        last = str(image.layers[1].descriptor["digest"])
        stall = registry.faults.add(Fault(path=last, stall_after=after))
        rules = msgspec.convert(insecure(registry.host), RegistriesTable)
        config = ImageConfig(work_dir=str(short_tmp / "work"), registry_config=rules)
        puller = build_puller(config, resources=Resources(), keys=None)
        bundle, unpacked = short_tmp / "bundle", short_tmp / "work" / "unpacked"
        try:
            task = asyncio.ensure_future(
                puller.pull(reference, bundle, deadline=Deadline.after(40))
            )
            while not stall.hits or len(list(unpacked.iterdir())) != 1:
                await asyncio.sleep(0.01)
            server, worker = _unpackers()
            os.kill(server if victim == "server" else worker, signal.SIGKILL)
            with pytest.raises(GuestError, match=r"unpack (server|worker) died"):
                await task
            registry.faults.clear()
            assert list((short_tmp / "work" / "staging").iterdir()) == []
            assert len(list(unpacked.iterdir())) == 1
            before = len(registry.requests)
            assert await puller.pull(reference, bundle, deadline=Deadline.after(40)) == digest
            later = [each.path for each in list(registry.requests)[before:]]
            assert not any(str(image.layers[0].descriptor["digest"]) in path for path in later)
            await puller.discard(bundle)
        finally:
            await puller.close()
