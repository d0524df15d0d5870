"""A simulated TDX guest's kernel interfaces, mounted by a process of its own.

Whoever dies first, the mount goes: with this process the server's input ends and it unmounts; when
the server dies, a watcher that waits for just that does.

Source: docs/spec/attesters.md 1.3 and 3.3.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 20.0
"""Seconds that mounting, an order or unmounting may take."""


NAMESPACE_SCRIPT: Final = (
    'mount --bind "$1/sys" /sys && mount -t tmpfs none /run && '
    '{ [ ! -d "$1/log" ] || { mkdir /run/attestation-agent && '
    'mount --bind "$1/log" /run/attestation-agent; }; } && shift && exec "$@"'
)


WATCH_SCRIPT: Final = 'cat; fusermount3 -u -z -q "$1" || umount -l "$1"'
"""Waits until the server holds its end of a pipe no more; nothing else does."""


class MountError(RuntimeError):
    """It could not be mounted; says why."""


class MountedGuest:
    """The guest behind a mount.

    Attributes:
        root: the tree in which `/sys` is mounted and `/dev/tdx_guest` leads to the device.
    """

    def __init__(self, root: Path, process: "subprocess.Popen[str]") -> None:
        """Speak with the process that serves `root`."""
        self.root = root
        self._process = process

    def order(self, **wanted: Any) -> dict[str, Any]:
        """Change the guest as `guest_simulator.tdx.tree.Control` says; gives its state."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def vanish(self) -> None:
        """Let the hardware disappear, whatever is under way."""
        self._process.kill()


def in_namespace(root: Path, command: Sequence[str]) -> list[str]:
    """A command line that runs `command` where the mounted guest's kernel is the machine's.

    Needs root. `/run` is empty there, but for `log` below `root`, which is where the event log is.

    Args:
        root: of a `MountedGuest`.
        command: what to run; it keeps the process id.
    """
    return ["unshare", "-m", "sh", "-c", NAMESPACE_SCRIPT, "sh", str(root), *command]


@contextmanager
def mounted(root: Path, **settings: Any) -> Iterator[MountedGuest]:
    """Mount below `root` until the end of the block; nothing is left behind.

    Args:
        root: an empty directory of the caller's.
        settings: fields of `guest_simulator.tdx.tree.Settings`.

    Raises:
        MountError: FUSE cannot be mounted here.
    """
    mount_point = root / "sys"
    mount_point.mkdir()
    (root / "dev").mkdir()
    (root / "dev" / "tdx_guest").symlink_to(mount_point / ".tdx_guest")
    watched, alive = os.pipe()
    watcher = subprocess.Popen(
        ["sh", "-c", WATCH_SCRIPT, "sh", str(mount_point)], stdin=watched,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    package = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "guest_simulator.tdx.tree", str(root), json.dumps(settings)]
    process = subprocess.Popen(
        [*command, str(alive)], pass_fds=(alive,), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": package, "FUSE_LIBRARY_NAME": "fuse3"},
    )  # fmt: skip
    os.close(watched)
    os.close(alive)
    try:
        _wait_for(mount_point, process)
        yield MountedGuest(root, process)
    finally:
        _stop(process)
        watcher.wait(SECONDS)
        if is_mounted(mount_point):
            raise MountError(f"{mount_point} stays mounted")


def is_mounted(mount_point: Path) -> bool:
    """Whether it is in the table of mounts, its server dead or alive."""
    wanted = str(mount_point)
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split(" ")[1] == wanted for line in lines)


def _wait_for(mount_point: Path, process: "subprocess.Popen[str]") -> None:
    give_up = time.monotonic() + SECONDS
    while not is_mounted(mount_point):
        if process.poll() is not None:
            assert process.stderr is not None
            raise MountError(process.stderr.read().strip() or f"status {process.returncode}")
        if time.monotonic() > give_up:
            raise MountError("not mounted in time")
        time.sleep(0.005)


def _stop(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it was killed with an order unread
        process.stdin.close()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
