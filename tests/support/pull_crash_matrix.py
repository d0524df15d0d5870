"""Kills an image puller with SIGKILL at every call that changes its store, a bundle or a mount.

A program of its own (`main`: DIRECTORY, HOST, REFERENCE, OTHER, mounted or copied), because it
forks and therefore must have no thread; the registry is another process. It prints one JSON object
for each death.
"""

import asyncio
import builtins
import io
import json
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp  # the puller's children would all import it
import msgspec

from guest.deadline import Deadline
from guest.errors import GuestError
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.layers.record import LayerRecord
from image_pull.observer import Unobserved
from image_pull.registry.rules import RegistriesTable
from image_pull.store import syscalls
from image_pull.store.overlay import Overlays
from support.killer import Killer
from support.pulling import Resources, insecure

assert aiohttp

CALLS: Final = (
    "mkdir", "rename", "replace", "link", "unlink", "rmdir", "ftruncate", "pwrite", "fsync",
    "fdatasync", "fchmod", "chmod", "utime",
)  # fmt: skip
MOUNTS: Final = (
    "fsopen", "fsconfig_create", "fsmount", "move_mount", "mount", "unmount",
)  # fmt: skip
SERIES: Final = {"pull": ("pull",), "collect": ("other", "pull"), "undo": ("pull", "undo")}
"""Steps of a life by what they show; the last is the one to die in."""

COLLECTING: Final = 12
"""Calls at the begin of a pull that remove an unused layer; what follows is as in `pull`."""

SECONDS: Final = 30.0


def _writes(_file: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
    return "w" in mode


class Counted(Unobserved):
    """Adds what comes to memory that outlives the process."""

    def __init__(self, shared: mmap.mmap) -> None:
        self._shared = shared

    def reset(self) -> None:
        """Begin anew."""
        self._shared[:8] = bytes(8)

    def bytes_received(self, count: int) -> None:
        """Add."""
        before = int.from_bytes(self._shared[:8], "little")
        self._shared[:8] = (before + count).to_bytes(8, "little")


class Lives:
    """Pulls of one image, each in a process of its own."""

    def __init__(self, host: str, reference: str, other: str) -> None:
        self._host = host
        self._reference = reference
        self._other = other

    async def _run(
        self, place: Path, observer: Counted, steps: tuple[str, ...], killed: str, killer: Killer
    ) -> dict[str, Any]:
        rules = msgspec.convert(insecure(self._host), RegistriesTable)
        config = ImageConfig(
            work_dir=str(place / "work"),
            registry_config=rules,
            max_concurrent_layer_downloads_per_image=1,
            keep_unused_layers_seconds=0,
        )
        puller = build_puller(config, resources=Resources(), keys=None, observer=observer)
        said: dict[str, Any] = {}
        for step in steps:
            if step == killed:
                observer.reset()
                killer.count(os, *CALLS)
                killer.count(syscalls, *MOUNTS)
                killer.count(io, "open", counts=_writes)  # what pathlib calls
            try:
                if step == "other":  # leaves a layer that the next pull removes
                    bundle = place / "other"
                    await puller.pull(self._other, bundle, deadline=Deadline.after(SECONDS))
                    await puller.discard(bundle)
                    shutil.rmtree(bundle)
                elif step == "pull":
                    said[step] = await puller.pull(
                        self._reference, place / "bundle", deadline=Deadline.after(SECONDS)
                    )
                else:
                    await puller.discard(place / "bundle")
                    said[step] = "done"
            except GuestError as error:
                said[step] = ": ".join(error.causes())
            said[f"after {step}"] = _state(place)
        return said

    def live(
        self,
        place: Path,
        steps: tuple[str, ...],
        killed: str = "",
        point: int = 0,
        *,
        after: bool = False,
    ) -> dict[str, Any]:
        """Live once; how it ended, what it said, which calls it made, how many bytes came."""
        shared = mmap.mmap(-1, 8)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                killer = Killer(point, "after" if after else "before")
                said = asyncio.run(self._run(place, Counted(shared), steps, killed, killer))
                with open(writer, "wb") as pipe:
                    pipe.write(json.dumps(said | {"calls": killer.names}).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with open(reader) as pipe:
            report = json.loads(pipe.read() or "{}")
        _, code = os.waitpid(pid, 0)
        bytes_came = int.from_bytes(shared[:8], "little")
        shared.close()
        return {"status": os.waitstatus_to_exitcode(code), "bytes": bytes_came, **report}


def _state(place: Path) -> dict[str, Any]:
    """What can be seen of layers and of the bundle."""
    mark = place / "bundle" / ".image-pull"
    unpacked, rootfs = place / "work" / "unpacked", place / "bundle" / "rootfs"
    layers = []
    for entry in sorted(unpacked.iterdir()) if unpacked.exists() else []:
        record = LayerRecord.decode((entry / "record").read_bytes())
        names = sorted(path.name for path in (entry / "tree").iterdir())
        layers.append({"names": names, "tar_bytes": record.tar_bytes})
    return {
        "layers": layers,
        "config": (place / "bundle" / "config.json").exists(),
        "rootfs": sorted(each.name for each in rootfs.iterdir()) if rootfs.exists() else [],
        "mark": mark.exists() and mark.stat().st_size > 0,
    }


def _left(place: Path) -> list[str]:
    left = []
    for name in ("staging", "mounts"):
        folder = place / "work" / name
        left += [f"{name}/{each.name}" for each in folder.iterdir()] if folder.exists() else []
    bundle = place / "bundle"
    left += [each.name for each in bundle.rglob("*")] if bundle.exists() else []
    mounted = Path("/proc/self/mountinfo").read_text()
    return left + [line for line in mounted.splitlines() if f"{place}/" in line]


def _deaths(base: Path, lives: Lives) -> Iterator[dict[str, Any]]:
    for kind, steps in SERIES.items():
        whole = lives.live(base / "whole", steps, steps[-1])
        yield {"kind": f"whole {kind}", **whole, "left": _left(base / "whole")}
        lives.live(base / "whole", ("undo",))
        shutil.rmtree(base / "whole")
        calls = whole["calls"][: COLLECTING if kind == "collect" else None]
        points = [(number, False) for number in range(1, len(calls) + 1)]
        for point, after in (*points, (len(calls), True)):
            place = base / f"{kind}-{point}-{after:d}"
            first = lives.live(place, steps, steps[-1], point, after=after)
            found = _state(place)
            second = lives.live(place, ("pull", "undo"))
            yield {
                "kind": kind,
                "what": f"{'after' if after else 'before'} {point} {calls[point - 1]}",
                "first": first,
                "found": found,
                "second": second,
                "left": _left(place),
            }
            shutil.rmtree(place)


def main() -> None:
    """Run the matrix below a directory."""
    directory, host, reference, other, way = sys.argv[1:]
    if way == "copied":
        Overlays.why_not = lambda self: "test"  # type: ignore[method-assign]  # children inherit it
    with tempfile.TemporaryDirectory(dir=directory) as base:
        for death in _deaths(Path(base), Lives(host, reference, other)):
            builtins.print(json.dumps(death), flush=True)


if __name__ == "__main__":
    main()
