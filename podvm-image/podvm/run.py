"""Child processes: one way to run them, with a limit, a fixed environment and their last words."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm.errors import ImageError

SECONDS: Final = 900.0
"""Seconds that one command may take unless it is given its own limit."""

ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "DEBIAN_FRONTEND": "noninteractive",
    "PYTHONHASHSEED": "0",
}


def run(
    command: Sequence[str | Path],
    *,
    seconds: float = SECONDS,
    environment: Mapping[str, str] | None = None,
    inherit: bool = False,
    cwd: Path | None = None,
) -> bytes:
    """Run a command to its end; give its output.

    Args:
        command: program and arguments.
        seconds: until it is killed.
        environment: variables on top of the fixed ones.
        inherit: keep this process's variables too (proxies, certificates).
        cwd: directory to run in.

    Raises:
        ImageError: it does not exist, failed or took too long.
    """
    words = [str(word) for word in command]
    variables = {**(os.environ if inherit else {}), **ENVIRONMENT, **(environment or {})}
    if inherit:
        variables["HOME"] = (environment or {}).get("HOME") or os.environ.get("HOME", "/")
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True,
            env=variables, timeout=seconds, cwd=cwd, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ImageError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{words[0]} did not end in {seconds:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise ImageError(
            f"{' '.join(words[:4])} ended with {done.returncode}: " + "\n".join(said[-12:])
        )
    return done.stdout


def chroot(tree: Path, command: Sequence[str], *, seconds: float = SECONDS) -> bytes:
    """Run a command inside a tree.

    Raises:
        ImageError: it failed.
    """
    return run(["chroot", tree, *command], seconds=seconds)
