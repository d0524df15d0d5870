"""Fills `.venv`: locked libraries, our two distributions, commands that run `python -I`.

Runs inside the virtual environment before anything is installed: standard library only. What is
installed is stamped with a digest of all it depends on, so that a second run does nothing.
"""

import argparse
import hashlib
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

from tools import system_packages, tpm_library

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv"
STAMP: Final = VENV / "setup-stamp"
DISTRIBUTIONS: Final = (ROOT, ROOT / "simulator")
SHEBANG_LIMIT: Final = 127
"""Bytes of a `#!` line that every Linux kernel takes."""

LAUNCHER: Final = """\
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""


def lock_file() -> Path:
    """The hashed lock for this interpreter's minor version."""
    return ROOT / "requirements" / "py{}{}.txt".format(*sys.version_info[:2])


def stamp() -> str:
    """A digest of everything that decides what the environment holds."""
    digest = hashlib.sha256(sys.version.encode() + os.fsencode(ROOT))
    sources = [lock_file(), Path(__file__), *(path / "pyproject.toml" for path in DISTRIBUTIONS)]
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def scripts() -> dict[str, str]:
    """All console scripts of both distributions: name to `module:function`."""
    found: dict[str, str] = {}
    for path in DISTRIBUTIONS:
        found.update(tomllib.loads((path / "pyproject.toml").read_text())["project"]["scripts"])
    return found


def shebang(python: Path) -> str:
    """The first lines of a launcher that runs `python -I`, whatever the path looks like."""
    line = f"#!{python} -I\n"
    if len(os.fsencode(line)) <= SHEBANG_LIMIT and " " not in str(python):
        return line
    return f"#!/bin/sh\n'''exec' \"{python}\" -I \"$0\" \"$@\"\n' '''\n"


def write_launchers() -> None:
    """Replace pip's launchers by ours: isolated from environment and working directory."""
    for name, target in scripts().items():
        module, function = target.split(":")
        path = VENV / "bin" / name
        text = shebang(VENV / "bin" / "python") + LAUNCHER.format(module=module, function=function)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)


def pip(*arguments: str) -> None:
    """Run this environment's pip; its output is shown when it fails.

    Raises:
        SystemExit: pip failed; its output was printed.
    """
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
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        raise SystemExit(f"setup: pip {arguments[0]} failed with status {done.returncode}")


def install() -> None:
    """Install the lock, then our own distributions in place."""
    lock = lock_file()
    print(f"setup: installing {lock.relative_to(ROOT)}", file=sys.stderr, flush=True)
    pip("install", "--require-hashes", "--only-binary", ":all:", "--retries", "5", "-r", str(lock))
    for path in DISTRIBUTIONS:
        print(f"setup: installing {path.name} in place", file=sys.stderr, flush=True)
        pip("install", "--no-build-isolation", "--no-deps", "--no-index", "-e", str(path))
    write_launchers()


def main() -> int:
    """Set the environment up; does nothing when it already is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--system", action="store_true", help="system packages too")
    parser.add_argument("--force", action="store_true", help="even if nothing has changed")
    options = parser.parse_args()
    wanted = stamp()
    if options.force or not STAMP.exists() or STAMP.read_text() != wanted:
        STAMP.unlink(missing_ok=True)
        install()
        STAMP.write_text(wanted)
        print(f"setup: {len(scripts())} commands in .venv/bin", file=sys.stderr)
    if not options.system:
        return 0
    status = system_packages.install_missing()
    return max(status, tpm_library.install())


if __name__ == "__main__":
    sys.exit(main())
