"""Going to the background, before the process has a loop or a thread.

Unlike a plain fork it tells: the command returns when the daemon serves, with status 0, or when
it has failed, with status 1.

Source: docs/spec/ocicrypt.md 14.1.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from guest.errors import PlatformError

DIRECTORY: Final = Path("/run/confidential-containers")
NAME: Final = "coco_keyprovider"


def detach(directory: Path) -> Callable[[], None]:
    """Fork; only the daemon returns from here.

    Args:
        directory: becomes the working directory; gets `coco_keyprovider.out`, `.err` and `.pid`.

    Returns:
        What the daemon calls once it serves, which lets the command end.

    Raises:
        PlatformError: the directory or its files cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        out = _open(directory / f"{NAME}.out")
        err = _open(directory / f"{NAME}.err")
    except OSError as error:
        raise PlatformError(f"files for the daemon cannot be made in {directory}") from error
    told, tell = os.pipe()
    if os.fork() != 0:
        os.close(tell)
        _wait(told)
    os.close(told)
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    os.chdir(directory)
    (directory / f"{NAME}.pid").write_text(f"{os.getpid()}\n")
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)

    def started() -> None:
        with suppress(BrokenPipeError):  # the command was interrupted, the daemon serves on
            os.write(tell, b"1")
        os.close(tell)

    return started


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o640)


def _wait(told: int) -> None:
    """End the command as the daemon's start ended."""
    os._exit(0 if os.read(told, 1) else 1)
