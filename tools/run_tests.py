"""Runs the tests this machine can run; the last thing it prints is what it could not, and why."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
RECORD: Final = ROOT / "build" / "checklist.json"
WORKERS: Final = 2
WHOLE_RUN_SECONDS: Final = 25 * 60.0
"""Seconds after which a run is stopped as hung; a whole run is meant to take under 15 minutes."""

NO_TESTS: Final = 5
"""pytest's exit status when nothing was collected."""


def pytest_command(paths: list[str], record: Path, extra: list[str]) -> list[str]:
    """The command line of pytest for a run over the given paths."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-n", str(WORKERS), "--dist", "loadfile", "--checklist", str(record)]
    return command + extra + paths


def test_environment() -> dict[str, str]:
    """The environment of the tests: short temporary paths, no colours, no proxy for loopback."""
    environment = dict(os.environ, TMPDIR="/tmp", PYTHONUNBUFFERED="1")
    environment.setdefault("TERM", "dumb")
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    return environment


def run(paths: list[str], record: Path, extra: list[str]) -> int:
    """Run pytest and give its exit status; a hung run is stopped.

    Raises:
        SystemExit: the run took longer than `WHOLE_RUN_SECONDS`.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            pytest_command(paths, record, extra),
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=test_environment(),
            timeout=WHOLE_RUN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"the tests did not end in {WHOLE_RUN_SECONDS:.0f} s") from None
    return done.returncode


def could_not_run(record: Path) -> str:
    """What was skipped, grouped by reason."""
    if not record.exists():
        return "The run ended before it could say what it skipped."
    skipped: dict[str, int] = json.loads(record.read_text())["skipped"]
    if not skipped:
        return "Every test ran: nothing was skipped."
    lines = [f"Could not run here: {sum(skipped.values())}"]
    lines += [f"  {count:4}  {reason}" for reason, count in skipped.items()]
    return "\n".join(lines)


def main() -> int:
    """Run all tests, or those under the given paths."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("paths", nargs="*", help="folders or files; default: everything")
    parser.add_argument("--quick", action="store_true", help="without tests marked slow")
    parser.add_argument(
        "--documents", metavar="DIR", help="vendors' real files instead of built ones"
    )
    options = parser.parse_args()
    started = time.monotonic()
    whole = not options.paths and not options.quick and not options.documents
    record = RECORD if whole else RECORD.with_name("partial-checklist.json")
    paths = [path for path in options.paths if (ROOT / path).exists()]
    if options.paths and not paths:
        print(f"no tests yet under {' '.join(options.paths)}")
        return 0
    extra = ["-m", "not slow"] if options.quick else []
    if options.documents:
        extra += ["--real-documents", os.path.abspath(options.documents)]
    status = run(paths, record, extra)
    sys.stdout.flush()
    print(f"\npytest ended with status {status} after {time.monotonic() - started:.0f} s")
    print(could_not_run(record), flush=True)
    return 0 if status == NO_TESTS and not whole else status


if __name__ == "__main__":
    sys.exit(main())
