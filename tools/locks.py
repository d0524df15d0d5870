"""Compiles `requirements/py3*.txt`: one hashed lock per Python minor, under that Python.

`requirements/tpm.txt` is compiled under the first of them and serves all.

Needs `python3.11`, `python3.12` and `python3.13` on PATH; `--upgrade` moves all pins.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
REQUIREMENTS: Final = ROOT / "requirements"
MINORS: Final = ("3.11", "3.12", "3.13")
SECONDS: Final = 900.0
OPTIONS: Final = (
    "--quiet",
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
    "--no-header",
    "--annotation-style=line",
)
FOREIGN: Final = re.compile(r"^\s*--(?!hash)|://|^[^#]*@ ", re.MULTILINE)
"""What a lock must not hold: options other than hashes, addresses, direct references."""


def run(*command: str | Path) -> None:
    """Run a program in `requirements/`, or end with its name."""
    done = subprocess.run(command, cwd=REQUIREMENTS, stdin=subprocess.DEVNULL, timeout=SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed with status {done.returncode}")


def compile_lock(python: str, source: str, name: str, options: list[str]) -> None:
    """Compile one lock in a fresh environment of that Python.

    Raises:
        SystemExit: the compiler failed, or wrote what a lock must not hold.
    """
    with tempfile.TemporaryDirectory() as directory:
        venv = Path(directory)
        run(python, "-I", "-m", "venv", venv)
        run(venv / "bin" / "pip", "install", "--quiet", "pip-tools")
        compiler = venv / "bin" / "pip-compile"
        run(compiler, *OPTIONS, *options, f"--output-file={name}", source)
    found = FOREIGN.search((REQUIREMENTS / name).read_text())
    if found is not None:
        raise SystemExit(f"{name} holds {found[0]!r}")
    print(f"requirements/{name} is compiled")


def main() -> int:
    """Compile the lock of every supported minor that is installed; 1 when one is not."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--upgrade", action="store_true", help="move all pins")
    options = parser.parse_args()
    extra = ["--upgrade"] if options.upgrade else []
    absent = []
    for minor in MINORS:
        python = shutil.which(f"python{minor}")
        if python is None:
            absent.append(minor)
            continue
        name = f"py{minor.replace('.', '')}.txt"
        compile_lock(python, "dev.in", name, extra)
        if minor == MINORS[0]:
            compile_lock(python, "tpm.in", "tpm.txt", [*extra, f"--constraint={name}"])
    if absent:
        print(f"not compiled, no such Python: {', '.join(absent)}")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
