"""Everything a machine can say about the code without running it: format, lint, types, rules."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CODE: Final = (
    "guest",
    "attestation_agent",
    "cdh",
    "image_pull",
    "api_server_rest",
    "simulator",
    "podvm-image/podvm",
    "tests",
    "tools",
)
SECONDS: Final = 600.0
"""Seconds one step may take; all of them are meant to take under 50 when caches are warm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One check.

    Attributes:
        name: what is printed.
        arguments: of this interpreter, after `-m`.
    """

    name: str
    arguments: tuple[str, ...]


def typed() -> list[str]:
    """The folders that hold Python."""
    return [name for name in CODE if next((ROOT / name).rglob("*.py"), None) is not None]


STEPS: Final = (
    Step(name="types (mypy --strict)", arguments=("mypy", "--no-error-summary", *typed())),
    Step(name="lint (ruff check)", arguments=("ruff", "check", "--quiet", ".")),
    Step(name="format (ruff format)", arguments=("ruff", "format", "--check", "--quiet", ".")),
    Step(name="generated code", arguments=("tools.protos", "--check")),
    Step(
        name="architecture",
        arguments=("pytest", "-q", "-p", "no:cacheprovider", "tests/architecture"),
    ),
)


def run(step: Step) -> tuple[Step, int, str, float]:
    """Run one step; give its exit status, its output and its seconds."""
    started = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", *step.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return step, 1, f"did not end in {SECONDS:.0f} s", SECONDS
    output = done.stdout.decode(errors="replace").strip()
    return step, done.returncode, output, time.monotonic() - started


def main() -> int:
    """Run all steps, two at a time; 1 when one of them fails."""
    started = time.monotonic()
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for step, status, output, seconds in pool.map(run, STEPS):
            print(f"{'ok  ' if status == 0 else 'FAIL'}  {step.name}  {seconds:.1f} s", flush=True)
            if status != 0:
                failed.append(step.name)
                print(output, flush=True)
    verdict = f"failed: {', '.join(failed)}" if failed else "all checks passed"
    print(f"{verdict} in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
