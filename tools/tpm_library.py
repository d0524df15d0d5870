"""Builds the TPM library from its source into `.venv`, where this machine can.

tpm2-pytss comes as source only and is built against the system's TPM stack. The wheel is built
once per lock, Python and stack, into `build/wheelhouse`, and installed from there. A machine that
cannot build it loses the tests that need it, which say so. In CI (`CI` set) that is a failure.
Standard library only.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements" / "tpm.txt"
STAMP: Final = ROOT / ".venv" / "tpm-stamp"
WHEELHOUSE: Final = ROOT / "build" / "wheelhouse"
LIBRARY: Final = "tpm2-pytss"
STACK: Final = "tss2-esys"
"""The part of the system's TPM stack whose version stands for all of it."""

BUILD_SECONDS: Final = 900.0
_ENTRY: Final = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)


def stack_version() -> str | None:
    """Version of the system's TPM stack; None where its headers are not installed."""
    if shutil.which("pkg-config") is None:
        return None
    done = subprocess.run(
        ["pkg-config", "--modversion", STACK], stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.stdout.decode().strip() if done.returncode == 0 else None


def has_python_header() -> bool:
    """Whether extensions can be built for this interpreter."""
    return Path(sysconfig.get_path("include"), "Python.h").exists()


def why_not() -> str | None:
    """What is missing to build the library; None where nothing is."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        return "no C compiler (Debian packages gcc and libc6-dev)"
    if stack_version() is None:
        return "no TPM stack (Debian packages libtss2-dev and pkg-config)"
    if not has_python_header():
        return "no Python.h (Debian package python3-dev)"
    return None


def stamp() -> str:
    """A digest of everything that decides what the wheel is."""
    digest = hashlib.sha256(LOCK.read_bytes())
    for text in (sys.version, str(stack_version()), sysconfig.get_platform()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def split_lock(text: str) -> tuple[str, str]:
    """The lock's entries: what the build needs, and the library itself."""
    entries = _ENTRY.split(text)
    library = [entry for entry in entries if entry.startswith(f"{LIBRARY}==")]
    others = [entry for entry in entries if not entry.startswith(f"{LIBRARY}==")]
    return "".join(others), "".join(library)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = dict(os.environ, PIP_NO_INPUT="1", PIP_ROOT_USER_ACTION="ignore")
    environment.pop("PIP_REQUIRE_VIRTUALENV", None)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=ROOT,
        timeout=BUILD_SECONDS,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        raise OSError(f"pip {arguments[0]} failed with status {done.returncode}")


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        yield file.name


def build_wheel() -> Path:
    """The wheel in the wheelhouse; built there by what the lock names, unless it is there.

    Raises:
        OSError: it cannot be built.
    """
    directory = WHEELHOUSE / stamp()[:16]
    found = sorted(directory.glob("*.whl"))
    if found:
        return found[0]
    print(f"setup: building {LIBRARY}", file=sys.stderr, flush=True)
    others, library = split_lock(LOCK.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    with _as_file(others) as build, _as_file(library) as source:
        _pip("install", "--require-hashes", "--only-binary", ":all:", "--retries", "5", "-r", build)
        _pip(
            "wheel", "--require-hashes", "--no-build-isolation", "--no-deps", "--no-binary",
            LIBRARY, "--retries", "5", "-w", str(directory), "-r", source,
        )  # fmt: skip
    return sorted(directory.glob("*.whl"))[0]


def install_wheel(wheel: Path) -> None:
    """Install the wheel that was built; what it needs is in `.venv` already.

    Raises:
        OSError: it cannot be installed, or not be loaded.
    """
    _pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    command = [sys.executable, "-I", "-c", "import tpm2_pytss"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        raise OSError(f"{LIBRARY} cannot be loaded: {done.stderr.decode(errors='replace')}")


def install() -> int:
    """Have the library in `.venv`; does nothing when it already is.

    Returns:
        0, or 1 in CI when it could not be built.
    """
    reason = why_not()
    if reason is None:
        wanted = stamp()
        if STAMP.exists() and STAMP.read_text() == wanted:
            return 0
        try:
            install_wheel(build_wheel())
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(error)
        else:
            STAMP.write_text(wanted)
            return 0
    print(f"setup: no {LIBRARY}: {reason}. What needs it is skipped and named.", file=sys.stderr)
    return 1 if os.environ.get("CI") else 0


def main() -> int:
    """Build the wheel; its path goes to standard output."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    reason = why_not()
    if reason is not None:
        print(f"wheelhouse: {reason}", file=sys.stderr)
        return 1
    print(build_wheel().relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
