"""Kills a fetch of an artifact with SIGKILL at every call that changes a file or a directory.

A program of its own (`main`: DIRECTORY, HOST), because it forks and therefore must have no thread;
the registry is another process. It prints one JSON object for each death.
"""

import asyncio
import builtins
import hashlib
import json
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp  # the children would all import it
import msgspec

from guest.deadline import Deadline
from guest.errors import GuestError
from image_pull.component import build_fetcher
from image_pull.config import ImageConfig
from image_pull.registry.client import RegistryClient
from image_pull.registry.rules import RegistriesTable
from support.artifacts import Unwrapper
from support.killer import Killer
from support.pulling import Resources, insecure

assert aiohttp

CALLS: Final = (
    "write", "mkdir", "rename", "link", "unlink", "rmdir", "ftruncate", "fsync", "fchmod", "chmod",
)  # fmt: skip
KINDS: Final = ("file", "tree")
"""Repositories below `demo`: an artifact of one encrypted file, and one of several plain ones."""

MODES: Final = ("before", "half", "after")
SECONDS: Final = 30.0


def _creates(_path: Any, flags: int, *_: Any, **__: Any) -> bool:
    return bool(flags & os.O_CREAT)


def _count(shared: mmap.mmap) -> None:
    """Add the bytes of blobs that come to memory that outlives the process."""
    original = RegistryClient.blob

    async def blob(self: Any, *arguments: Any, **named: Any) -> AsyncIterator[bytes]:
        async for chunk in original(self, *arguments, **named):
            before = int.from_bytes(shared[:8], "little")
            shared[:8] = (before + len(chunk)).to_bytes(8, "little")
            yield chunk

    RegistryClient.blob = blob  # type: ignore[method-assign]  # in a child


async def _fetch(host: str, kind: str, path: Path) -> str:
    config = ImageConfig(
        registry_config=msgspec.convert(insecure(host), RegistriesTable),
        max_concurrent_layer_downloads_per_image=1,
    )
    fetcher = build_fetcher(config, resources=Resources(), keys=Unwrapper())
    try:
        reference = f"{host}/demo/{kind}:v1"
        return await fetcher.fetch(reference, path, deadline=Deadline.after(SECONDS))
    except GuestError as error:
        return ": ".join(error.causes())
    finally:
        await fetcher.close()


def live(host: str, kind: str, path: Path, point: int = 0, mode: str = "") -> dict[str, Any]:
    """Fetch once in a process: how it ended, what it said, its calls, how many bytes came."""
    shared = mmap.mmap(-1, 8)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _count(shared)
            killer = Killer(point, mode)
            killer.count(os, "open", counts=_creates)
            killer.count(os, *CALLS)
            said = asyncio.run(_fetch(host, kind, path))
            with builtins.open(writer, "w") as pipe:
                json.dump({"said": said, "calls": killer.names}, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as pipe:
        report = json.loads(pipe.read() or "{}")
    _, code = os.waitpid(pid, 0)
    came = int.from_bytes(shared[:8], "little")
    shared.close()
    return {"status": os.waitstatus_to_exitcode(code), "bytes": came, **report}


def state(path: Path) -> dict[str, Any]:
    """What is at the path, and how long the parts beside it are."""
    found = {}
    if path.is_file():
        found[""] = hashlib.sha256(path.read_bytes()).hexdigest()
    for file in path.rglob("*"):
        if file.is_file():
            found[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    stage = path.with_name(f".{path.name}.fetch")
    parts = {each.name[:64]: each.stat().st_size for each in stage.glob("*.part")}
    beside = sorted(each.name for each in path.parent.glob("*"))
    return {"there": os.path.lexists(path), "files": found, "parts": parts, "beside": beside}


def deaths(base: Path, host: str) -> Iterator[dict[str, Any]]:
    """Each kind: one whole life, then every death and the fetch after it."""
    for kind in KINDS:
        whole = live(host, kind, base / "whole" / "model")
        yield {"kind": f"whole {kind}", **whole, **state(base / "whole" / "model")}
        shutil.rmtree(base / "whole")
        for point, name in enumerate(whole["calls"], 1):
            for mode in MODES:
                if mode == "half" and name != "write":
                    continue
                place = base / f"{point}-{mode}"
                first = live(host, kind, place / "model", point, mode)
                found = state(place / "model")
                second = live(host, kind, place / "model")
                yield {
                    "kind": kind,
                    "what": f"{mode} {point} {name}",
                    "point": point,
                    "first": first,
                    "found": found,
                    "second": second,
                    "end": state(place / "model"),
                }
                shutil.rmtree(place)


def main() -> None:
    """Run the matrix below a directory."""
    directory, host = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=directory) as base:
        for death in deaths(Path(base), host):
            builtins.print(json.dumps(death), flush=True)


if __name__ == "__main__":
    main()
