"""Builds the ttRPC peers of the interoperability tests: programs on the Go and Rust libraries.

Their sources are in `tests/interop/ttrpc_peers`, and are built in copies below `build/ttrpc-peers`.
Nothing is fetched where the compilers have the libraries already, and nothing is built where a
program fits its sources. A machine without a compiler or network loses these tests, which say so.
Standard library only.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ROOT / "tests" / "interop" / "ttrpc_peers"
PROGRAMS: Final = ROOT / "build" / "ttrpc-peers"
TARGET: Final = PROGRAMS / "rust-target"
"""Where cargo keeps what it has compiled."""

FILES: Final[Mapping[str, Sequence[str]]] = {
    "go": ("go.mod", "go.sum", "main.go"),
    "rust": ("Cargo.toml", "src/main.rs"),
}
"""Peer to the files it is made of."""

BUILD_SECONDS: Final = 900.0
"""Seconds that one run of a compiler may take."""

COMMAND: Final = "make interop"
"""What builds the peers."""


def program(name: str) -> Path:
    """Where a peer's program is, once it is built."""
    return PROGRAMS / f"{name}-peer"


def _stamp(name: str) -> Path:
    return PROGRAMS / f"{name}-peer.sources"


def digest(name: str) -> str:
    """A digest of a peer's sources."""
    content = (SOURCES / name / file for file in FILES[name])
    parts = (hashlib.sha256(path.read_bytes()).hexdigest() for path in content)
    return " ".join(parts)


def is_built(name: str) -> bool:
    """Whether a peer's program is there and fits its sources."""
    stamp = _stamp(name)
    built = program(name).exists() and stamp.exists()
    return built and stamp.read_text("utf-8") == digest(name)


def why_not() -> str | None:
    """Which peers are not built, and what builds them; None when all are."""
    missing = [name for name in FILES if not is_built(name)]
    if not missing:
        return None
    return f"the ttRPC peers in {' and '.join(missing)} are not built ({COMMAND})"


def commands(name: str) -> tuple[Sequence[str], ...]:
    """The compiler's command lines, of which one that succeeds is enough."""
    if name == "go":
        output = str(program(name)) + ".new"
        return (("go", "build", "-p", "1", "-trimpath", "-buildvcs=false", "-o", output, "."),)
    build = ("cargo", "build", "--jobs", "1", "--target-dir", str(TARGET))
    return (*build, "--offline"), build


def build(name: str) -> str | None:
    """Build one peer; the reason why it could not be, or None."""
    tries = commands(name)
    if shutil.which(tries[0][0]) is None:
        return f"no {tries[0][0]}"
    copy = PROGRAMS / name
    shutil.copytree(SOURCES / name, copy, dirs_exist_ok=True)
    text = ""
    for command in tries:
        try:
            done = subprocess.run(
                ("nice", "-n", "19", *command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=copy,
                timeout=BUILD_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode == 0:
            _keep(name)
            return None
        text = done.stdout.decode(errors="replace").strip()
    return f"{tries[0][0]} failed:\n{text}"


def _keep(name: str) -> None:
    new = program(name).with_suffix(".new")
    if name == "rust":
        shutil.copy2(TARGET / "debug" / "ttrpc-peer", new)
    os.replace(new, program(name))
    _stamp(name).write_text(digest(name), "utf-8")


def main() -> int:
    """Build what is not built; what cannot be is said, and is no failure."""
    for name in FILES:
        if is_built(name):
            continue
        print(f"Building the ttRPC peer in {name}.", flush=True)
        reason = build(name)
        if reason is not None:
            print(f"The ttRPC peer in {name} was not built: {reason}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
