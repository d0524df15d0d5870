"""Runs the fuzz targets: with atheris where it is installed, else with the mutation driver."""

import argparse
import importlib.util
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Final

from tools import fuzzing

ROOT: Final = Path(__file__).resolve().parent.parent
PRODUCT: Final = ["guest", "attestation_agent", "cdh", "image_pull", "api_server_rest"]
MARGIN: Final = 120.0
"""Seconds beyond its time after which a target's process is stopped."""


def has_atheris() -> bool:
    """Whether the coverage-guided engine is installed; it has no wheel for every Python."""
    return importlib.util.find_spec("atheris") is not None


def run_with_atheris(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=PRODUCT):
        target = fuzzing.load(name)
    folder = ROOT / "build" / "fuzz" / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={fuzzing.MAX_LENGTH}",
        f"-timeout={fuzzing.HANG_SECONDS}",
        "-rss_limit_mb=2048",
        "-verbosity=0",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([name, *options, str(corpus)], target.one_input)
    atheris.Fuzz()


def run_with_driver(name: str, seconds: int) -> None:
    """Fuzz one target in this process with plain mutations; a bug is printed and ends it.

    Raises:
        SystemExit: with 1, after a bug.
    """
    target = fuzzing.load(name)
    try:
        count = fuzzing.drive(target, seconds=seconds, iterations=sys.maxsize)
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    print(f"{count} inputs")


def run_child(name: str, seconds: int, engine: str) -> tuple[int, str]:
    """Fuzz one target in a process of its own; give its status and what it printed."""
    command = [sys.executable, "-m", "tools.fuzz", "--one", name]
    command += ["--engine", engine, "--seconds", str(seconds)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"RUST_BACKTRACE": "0"},  # else each refusal by pysequoia takes 0.2 s
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + MARGIN,
        )
    except subprocess.TimeoutExpired:
        return 1, f"did not end {MARGIN:.0f} s after its time"
    return done.returncode, done.stdout.decode(errors="replace")


def summary(output: str) -> str:
    """The line of a run that says how much it did."""
    for line in output.splitlines():
        if "number_of_executed_units" in line:
            return f"{line.split()[-1]} inputs"
    return (output.strip().splitlines() or [""])[-1]


def main() -> int:
    """Run all targets, or those named; 1 when one found a bug."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="targets; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--engine", choices=("atheris", "driver"), help="default: what is there")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engine = options.engine or ("atheris" if has_atheris() else "driver")
    if options.one:
        run = run_with_atheris if engine == "atheris" else run_with_driver
        run(options.one, options.seconds)
        return 0
    if engine == "driver":
        print("Plain mutations, no coverage: atheris is not installed here or was not asked for.")
    failed = []
    for name in options.names or fuzzing.names():
        status, output = run_child(name, options.seconds, engine)
        print(f"{'ok  ' if status == 0 else 'BUG '}  {name}  {summary(output)}", flush=True)
        if status != 0:
            failed.append(name)
            print(output)
    print(f"bugs in: {', '.join(failed)}" if failed else "no bugs found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
