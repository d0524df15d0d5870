"""Death of a fetch by SIGKILL: nothing half is at its path, and the next one goes on."""

import hashlib
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from guest_simulator.registry.server import Registry
from support.artifacts import MIB, Blob, push
from support.death_matrix import run_matrix

MOST_AGAIN = MIB + (128 + 256) * 1024
"""Bytes that are in memory before they are written, and so come once more: a block, and a piece
of the HTTP client (it stops reading at 128 KiB, and asyncio hands it 256 KiB at a time)."""


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_no_death_of_a_fetch_leaves_half_a_file_and_the_next_one_goes_on(
    tmp_path: Path, repository: Path
) -> None:
    chance = random.Random(11)
    alone = Blob(None, chance.randbytes(2 * MIB + 77), encrypted=True)
    twice = chance.randbytes(MIB + 5)
    files = [Blob("a", twice), Blob("deep/b", twice), Blob("deep/c", chance.randbytes(9))]
    async with Registry() as registry:
        digests = {
            "file": push(registry, alone, name="demo/file"),
            "tree": push(registry, *files, name="demo/tree"),
        }
        module = "support.fetch_crash_matrix"
        lives = await run_matrix(repository, module, str(tmp_path), registry.host)
    whole = {
        "file": {"": hashlib.sha256(alone.data).hexdigest()},
        "tree": {str(file.title): hashlib.sha256(file.data).hexdigest() for file in files},
    }
    sizes = {"file": len(alone.data), "tree": len(twice) + 9}
    for kind, calls in (("file", {"link"}), ("tree", {"link", "rename", "rmdir"})):
        (first,) = (each for each in lives if each["kind"] == f"whole {kind}")
        assert (first["said"], first["bytes"]) == (digests[kind], sizes[kind])
        assert first["files"] == whole[kind]
        assert {"open", "write", "mkdir", "fchmod", "fsync", "unlink"} | calls <= {*first["calls"]}
        deaths = [each for each in lives if each["kind"] == kind]
        assert len(deaths) == 2 * len(first["calls"]) + first["calls"].count("write")
        for death in deaths:
            _judge(death, digests[kind], whole[kind], sizes[kind])


def _judge(death: dict[str, Any], digest: str, whole: dict[str, str], size: int) -> None:
    first, found, second, end = (death[key] for key in ("first", "found", "second", "end"))
    if first["status"] == 0:  # how many writes there are depends on how the bytes arrive
        assert len(first["calls"]) < death["point"], death
        assert found["there"], death
    else:
        assert first["status"] == -signal.SIGKILL, death
    assert found["files"] == (whole if found["there"] else {}), death
    if found["there"]:  # all that was left to do is to tell the caller
        assert "exists already" in second["said"], death
        assert second["bytes"] == 0, death
    else:
        assert second["said"] == digest, death
        assert second["bytes"] == size - sum(found["parts"].values()), death
        assert first["bytes"] - sum(found["parts"].values()) <= MOST_AGAIN, death
    assert end["files"] == whole, death
    assert end["beside"] == ["model"], death
