"""`podvm image-test`: boots, one after the other, then the table."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from podvm.build import Options, build
from podvm.errors import ImageError
from podvm.places import OUTPUT
from podvm.smoke.boots import BOOTS, Results, Site
from podvm.smoke.rows import ROWS
from podvm.smoke.table import Result, render
from podvm.smoke.world import world

STEPS: Final = ("build", *BOOTS)
OF_BOOT: Final = {"hash": "tampered", "data": "tampered"}
"""Boots that are not called like their step."""


def image_test(steps: Collection[str], *, seconds: float) -> int:
    """Run steps of the test on the built images; 1 when anything failed.

    Args:
        steps: of `STEPS`.
        seconds: until a boot is killed.

    Raises:
        ImageError: an image is not built, or a program is missing.
    """
    for variant in ("production", "smoke"):
        if not (OUTPUT / variant / "sha256sums").exists():
            raise ImageError(f"the variant {variant} is not built")
    results: Results = {}
    if "build" in steps:
        results["build.S18"] = build_again()
    results |= asyncio.run(_boots([name for name in BOOTS if name in steps], seconds))
    absent = [name for name in STEPS if name not in steps]
    skipped = [*absent, *(name for name, step in OF_BOOT.items() if step in absent)]
    lines, good = render(ROWS, results, skipped)
    print("\n".join(lines))
    logs = OUTPUT / "image-test"
    logs.mkdir(parents=True, exist_ok=True)
    kept = {name: [result.good, result.detail] for name, result in sorted(results.items())}
    (logs / "results.json").write_text(json.dumps(kept, indent=1) + "\n")
    return 0 if good else 1


async def _boots(names: Sequence[str], seconds: float) -> Results:
    logs = OUTPUT / "image-test"
    logs.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="podvm-smoke-") as place:
        async with world() as around:
            site = Site(world=around, builds=OUTPUT, work=Path(place), logs=logs, seconds=seconds)
            for name in names:
                started = time.monotonic()
                try:
                    results |= await BOOTS[name](site)
                except ImageError as error:
                    results[f"{name}.boot"] = Result(good=False, detail=str(error))
                print(f"{time.monotonic() - started:7.1f} s  {name}", file=sys.stderr, flush=True)
            for name, outcome in site.outcomes.items():
                seen = ", ".join(f"{mark} {after}" for mark, after in outcome.seen.items())
                print(f"         {name}: {seen}", file=sys.stderr, flush=True)
    return results


def build_again() -> Result:
    """Build the production variant once more, elsewhere, and compare every output."""
    with tempfile.TemporaryDirectory(prefix="podvm-again-") as place:
        again = build(Options(variant="production", output=Path(place)))
        differing = compare(OUTPUT / "production", again)
    return Result(good=not differing, detail=f"differ: {differing}" if differing else "identical")


def compare(one: Path, other: Path) -> list[str]:
    """Names of outputs that differ, by their recorded digests."""
    lines = [set((place / "sha256sums").read_text().splitlines()) for place in (one, other)]
    return sorted({line.split()[1] for line in lines[0] ^ lines[1]})
