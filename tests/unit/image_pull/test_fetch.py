"""Artifacts that are fetched to a path: whole or not at all, and never twice what came once."""

import asyncio
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, InvalidInputError
from guest_simulator.faults import Fault
from guest_simulator.registry.server import Registry
from image_pull.component import build_fetcher
from image_pull.config import ImageConfig
from image_pull.fetch import ArtifactFetcher
from image_pull.registry.rules import RegistriesTable
from support.agents import agent_command
from support.artifacts import MIB, Blob, Unwrapper, push
from support.pulling import Resources, insecure


@asynccontextmanager
async def fetcher(
    registry: Registry, keys: Unwrapper | None = None, **table: object
) -> AsyncIterator[ArtifactFetcher]:
    rules = msgspec.convert(insecure(registry.host), RegistriesTable)
    config = ImageConfig(registry_config=rules, **table)  # type: ignore[arg-type]  # free fields
    made = build_fetcher(config, resources=Resources(), keys=keys)
    try:
        yield made
    finally:
        await made.close()


async def fetch(made: ArtifactFetcher, registry: Registry, path: Path) -> str:
    return await made.fetch(f"{registry.host}/demo/model:v1", path, deadline=Deadline.after(50))


def sent(registry: Registry, digests: Sequence[str]) -> int:
    return sum(each.sent for each in registry.requests if each.path.rpartition("/")[2] in digests)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_one_layer_becomes_the_file(encrypted: bool, tmp_path: Path) -> None:
    blob = Blob(None, random.Random(0).randbytes(3 * MIB + 5), encrypted)
    path = tmp_path / "deep" / "model.bin"
    async with Registry() as registry, fetcher(registry, Unwrapper()) as made:
        digest = push(registry, blob)
        assert await fetch(made, registry, path) == digest
        assert path.read_bytes() == blob.data
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if encrypted else 0o644)
        assert os.listdir(path.parent) == ["model.bin"]
        with pytest.raises(InvalidInputError, match="exists already"):
            await fetch(made, registry, path)
        assert os.listdir(path.parent) == ["model.bin"]


async def test_several_layers_become_a_directory(tmp_path: Path) -> None:
    blobs = [
        Blob("config.json", b"{}"),
        Blob("weights/1.bin", random.Random(1).randbytes(MIB), encrypted=True),
        Blob("weights/2.bin", random.Random(2).randbytes(MIB), encrypted=True),
        Blob("empty-too.json", b"{}"),
    ]
    path = tmp_path / "model"
    async with Registry() as registry, fetcher(registry, Unwrapper()) as made:
        push(registry, *blobs)
        await fetch(made, registry, path)
        found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
        assert found == {blob.title: blob.data for blob in blobs}
        assert (path / "config.json").stat().st_ino != (path / "empty-too.json").stat().st_ino
        assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_fetch_goes_on_where_the_one_before_was(encrypted: bool, tmp_path: Path) -> None:
    blob = Blob(None, random.Random(3).randbytes(8 * MIB), encrypted)
    path = tmp_path / "model.bin"
    async with Registry() as registry:
        push(registry, blob)
        stall = registry.faults.add(Fault(path=blob.digest, stall_after=5 * MIB))
        async with fetcher(registry, Unwrapper()) as made:
            part = tmp_path / ".model.bin.fetch" / f"{blob.digest[7:]}.part"
            task = asyncio.ensure_future(fetch(made, registry, path))
            while not stall.hits or not part.exists() or part.stat().st_size < 4 * MIB:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not path.exists()
        registry.faults.clear()
        async with fetcher(registry, Unwrapper()) as made:
            await fetch(made, registry, path)
        assert path.read_bytes() == blob.data
        # the request that stalled is noted when it ends
        resumed = [each for each in registry.requests if "range" in each.headers]
        assert len(resumed) == 1
        assert resumed[0].sent <= 4 * MIB


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_was_left_and_is_not_the_blob_s_begin_is_fetched_again(
    encrypted: bool, tmp_path: Path
) -> None:
    blob = Blob(None, random.Random(4).randbytes(2 * MIB), encrypted)
    path, stage = tmp_path / "model.bin", tmp_path / ".model.bin.fetch"
    async with Registry() as registry, fetcher(registry, Unwrapper()) as made:
        push(registry, blob)
        stage.mkdir()
        wrong = bytearray(blob.data[:MIB])
        wrong[77] ^= 1
        (stage / f"{blob.digest[7:]}.part").write_bytes(wrong)
        (stage / "other.part").write_bytes(b"of another version")
        await fetch(made, registry, path)
        assert path.read_bytes() == blob.data
        assert os.listdir(tmp_path) == ["model.bin"]


async def test_what_is_whole_but_was_not_seen_yet_is_not_fetched_again(tmp_path: Path) -> None:
    blobs = [Blob("a", random.Random(5).randbytes(MIB)), Blob("b", b"b", encrypted=True)]
    path, keys = tmp_path / "model", Unwrapper()
    async with Registry() as registry, fetcher(registry, keys) as made:
        push(registry, *blobs)
        keys.denies = True
        with pytest.raises(DeniedError):
            await fetch(made, registry, path)
        keys.denies = False
        registry.faults.add(Fault(path=blobs[0].digest, status=500))
        stage = tmp_path / ".model.fetch" / f"{blobs[0].digest[7:]}.part"
        stage.write_bytes(blobs[0].data)
        await fetch(made, registry, path)
        assert (path / "a").read_bytes() == blobs[0].data


@pytest.mark.parametrize("what", ["digest", "longer", "mac", "denied", "policy", "space"])
async def test_what_is_wrong_is_not_seen_at_the_path(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted = what in ("mac", "denied")
    blob = Blob(None, random.Random(6).randbytes(MIB), encrypted, break_mac=what == "mac")
    path, keys = tmp_path / "model.bin", Unwrapper()
    keys.denies = what == "denied"
    table = {"image_security_policy": '{"default":[{"type":"reject"}]}'} if what == "policy" else {}
    async with Registry() as registry, fetcher(registry, keys, **table) as made:
        push(registry, blob)
        if what in ("digest", "longer"):
            change = {"flip": 5} if what == "digest" else {"resize": 1}
            registry.faults.add(Fault(path=blob.digest, **change))  # type: ignore[arg-type]  # one
        if what == "space":
            full = os.statvfs_result((4096, 4096, 100, 1, 1, 1, 1, 1, 0, 255))
            monkeypatch.setattr(os, "statvfs", lambda path: full)
        with pytest.raises(GuestError) as caught:
            await fetch(made, registry, path)
        assert not path.exists()
        asked = registry.requests.count("GET", blob.digest)
        assert (asked == 0) == (what in ("denied", "policy", "space"))
        if what == "space":
            text = f"artifact needs {MIB} bytes more, 4096 bytes are free"
            assert text in str(caught.value)


async def test_a_registry_that_cuts_every_connection_is_enough(tmp_path: Path) -> None:
    chance = random.Random(7)
    blob = Blob(None, chance.randbytes(24 * MIB), encrypted=True)
    async with Registry() as registry, fetcher(registry, Unwrapper()) as made:
        push(registry, blob)
        for number in range(100):
            cut = chance.randrange(2 * MIB, 4 * MIB)
            registry.faults.add(Fault(path=blob.digest, cut_after=cut, skip=number, times=1))
        await fetch(made, registry, tmp_path / "model")
        assert (tmp_path / "model").read_bytes() == blob.data
        assert sent(registry, [blob.digest]) <= 1.1 * len(blob.data)


async def test_two_fetches_do_not_share_a_path(tmp_path: Path) -> None:
    blob = Blob(None, b"x" * MIB)
    async with Registry() as registry, fetcher(registry) as made, fetcher(registry) as other:
        push(registry, blob)
        slow = registry.faults.add(Fault(path=blob.digest, delay=1.0))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetch(made, registry, tmp_path / "m"))
            while not slow.hits:
                await asyncio.sleep(0.01)
            with pytest.raises(InvalidInputError, match="another process fetches to"):
                await fetch(other, registry, tmp_path / "m")
        assert task.result()


async def test_the_command_fetches_and_goes_on_after_kill(repository: Path, tmp_path: Path) -> None:
    blob = Blob(None, random.Random(8).randbytes(6 * MIB))
    path = tmp_path / "model.bin"
    async with Registry() as registry:
        digest = push(registry, blob)
        stall = registry.faults.add(Fault(path=blob.digest, stall_after=4 * MIB))
        argv = [
            *agent_command(module="image_pull.main"),
            *("fetch", "--insecure", registry.host),
            *(f"{registry.host}/demo/model:v1", str(path)),
        ]
        process = await asyncio.create_subprocess_exec(*argv, cwd=repository)
        part = tmp_path / ".model.bin.fetch" / f"{blob.digest[7:]}.part"
        while not stall.hits or not part.exists() or part.stat().st_size < 3 * MIB:
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
        registry.faults.clear()
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=repository, capture_output=True, text=True, timeout=50
        )
        assert (done.returncode, done.stdout) == (0, f"{digest}\n"), done.stderr
        assert path.read_bytes() == blob.data
        last = [each for each in registry.requests if blob.digest in each.path][-1]
        assert last.headers["range"] == f"bytes={3 * MIB}-" or last.sent < 3 * MIB
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=repository, capture_output=True, text=True, timeout=50
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "exists already" in done.stderr


PROVIDER = """#!{python}
import json, sys
packet = json.load(sys.stdin)["keyunwrapparams"]["annotation"]
print(json.dumps({{"keyunwrapresults": {{"optsdata": packet}}}}))
"""


@pytest.mark.parametrize("how", ["flag", "variable"])
async def test_the_command_asks_the_configured_key_provider(
    how: str, repository: Path, tmp_path: Path
) -> None:
    program, config = tmp_path / "provider", tmp_path / "providers.json"
    program.write_text(PROVIDER.format(python=sys.executable))
    program.chmod(0o755)
    entry = {"cmd": {"path": str(program), "args": []}}
    config.write_text(json.dumps({"key-providers": {"attestation-agent": entry}}))
    blob, path = Blob(None, b"secret weights" * 100, encrypted=True), tmp_path / "model.bin"
    async with Registry() as registry:
        digest = push(registry, blob)
        flag = ["--key-providers", str(config)] if how == "flag" else []
        variable = {} if how == "flag" else {"OCICRYPT_KEYPROVIDER_CONFIG": str(config)}
        done = await asyncio.to_thread(
            subprocess.run,
            [
                *agent_command(module="image_pull.main"),
                *("fetch", *flag),
                *("--insecure", registry.host, f"{registry.host}/demo/model:v1", str(path)),
            ],
            cwd=repository,
            env={"PATH": os.environ["PATH"]} | variable,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert (done.returncode, done.stdout) == (0, f"{digest}\n"), done.stderr
        assert path.read_bytes() == blob.data
