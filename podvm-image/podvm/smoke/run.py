"""`podvm image-test`: boots in two lanes side by side, then the table and what it proves."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from podvm import children, vm_module
from podvm.build import Options, build
from podvm.errors import ImageError
from podvm.packages import Lock
from podvm.places import IMAGE, OUTPUT, PROJECT, cache
from podvm.smoke.boots import BOOTS
from podvm.smoke.builds import built_again
from podvm.smoke.checks import CHECKS, record
from podvm.smoke.contents import inspect
from podvm.smoke.rows import ROWS
from podvm.smoke.site import Results, Site
from podvm.smoke.table import Result, render
from podvm.smoke.world import world

VARIANT: Final = "variant"
BUILD: Final = "build"
CONTENTS: Final = "contents"
LANES: Final = (
    ("tampered", "cloud", "disk", "production"),
    (VARIANT, BUILD, CONTENTS, "plain"),
)
"""What is done side by side; in each lane one after the other."""

OF_PRODUCTION: Final = ("tampered", VARIANT)
"""What does not wait until the variant with probes is built."""

STEPS: Final = tuple(step for lane in LANES for step in lane)
OF_BOOT: Final = {"hash": "tampered", "data": "tampered"}
"""Boots that are not called like their step."""

TOLD_ONLY: Final = "told only"
"""In a detail: something was measured and, the host being busy, not judged."""

RECORD: Final = PROJECT / "build" / "image-checklist.json"
"""Which checks of the specification this proved; `make checklist` counts them."""


def image_test(steps: Collection[str], *, seconds: float) -> int:
    """Run steps of the test on the built images; 1 when anything failed.

    Args:
        steps: of `STEPS`.
        seconds: until a boot is killed.

    Raises:
        ImageError: an image is not built, or a program is missing.
    """
    for variant in ("production", *(("smoke",) if VARIANT not in steps else ())):
        if not (OUTPUT / variant / "sha256sums").exists():
            raise ImageError(f"the variant {variant} is not built")
    started = time.monotonic()
    results, repeated = children.run_until_signal(_lanes(steps, seconds, tsm_module()))
    absent = [name for name in STEPS if name not in steps]
    skipped = [*absent, *(name for name, step in OF_BOOT.items() if step in absent)]
    lines, good = render(ROWS, results, skipped)
    lines += [
        f"     told only        {name}: {result.detail}"
        for name, result in sorted(results.items())
        if result.good and TOLD_ONLY in result.detail
    ]
    lines += [f"     repeated         {name}: {why}" for name, why in sorted(repeated.items())]
    print("\n".join([*lines, f"{time.monotonic() - started:.0f} s"]))
    kept = {name: [result.good, result.detail] for name, result in sorted(results.items())}
    (OUTPUT / "image-test/results.json").write_text(json.dumps(kept, indent=1) + "\n")
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"checks": record(CHECKS, results)}, indent=1) + "\n")
    return 0 if good else 1


def tsm_module() -> bytes:
    """The test's kernel module, built once for each kernel.

    Raises:
        ImageError: it cannot be built.
    """
    lock = Lock.decode((IMAGE / "packages.lock.json").read_text("utf-8"))
    place = cache() / f"{vm_module.NAME}-{vm_module.kernel_version(lock)}-{vm_module.key()}.ko"
    if not place.exists():
        fresh = place.with_suffix(".new")
        vm_module.build(lock, fresh)
        fresh.rename(place)
    return place.read_bytes()


async def _lanes(
    steps: Collection[str], seconds: float, module: bytes
) -> tuple[Results, Mapping[str, str]]:
    """The results, and the boots that were done twice."""
    logs = OUTPUT / "image-test"
    logs.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    repeated: dict[str, str] = {}
    built = asyncio.Event()
    if VARIANT not in steps:
        built.set()
    with tempfile.TemporaryDirectory(prefix="podvm-smoke-") as place:
        async with asyncio.TaskGroup() as tasks:
            for number, lane in enumerate(LANES):
                work = Path(place) / str(number)
                work.mkdir()
                names = [name for name in lane if name in steps]
                around = partial(
                    Site,
                    builds=OUTPUT,
                    work=work,
                    logs=logs,
                    seconds=seconds,
                    module=module,
                    repeated=repeated,
                )
                one = _lane(names, around, results, built)
                tasks.create_task(one, name=f"lane {number}")
    return results, repeated


async def _lane(
    names: Sequence[str], make: Callable[..., Site], results: Results, built: asyncio.Event
) -> None:
    """One lane, in a world of its own."""
    async with world() as around:
        site = make(world=around)
        for name in names:
            if name not in OF_PRODUCTION:
                await built.wait()
            started = time.monotonic()
            try:
                results |= await _step(name, site)
            except ImageError as error:
                results[f"{name}.boot"] = Result(good=False, detail=str(error))
                print(f"         {name}: {error}", file=sys.stderr, flush=True)
            if name == VARIANT:
                built.set()
            print(f"{time.monotonic() - started:7.1f} s  {name}", file=sys.stderr, flush=True)
        for name, outcome in site.outcomes.items():
            seen = ", ".join(f"{mark} {after}" for mark, after in outcome.seen.items())
            print(
                f"         {name}: {seen}; processor {outcome.cpu:.0f} s",
                file=sys.stderr,
                flush=True,
            )


async def _step(name: str, site: Site) -> Results:
    if name == VARIANT:
        await asyncio.to_thread(build, Options(variant="smoke", output=OUTPUT))
        return {}
    if name == BUILD:
        return await asyncio.to_thread(built_again)
    if name == CONTENTS:
        return await asyncio.to_thread(inspect, site.builds, site.work)
    return await BOOTS[name](site)
