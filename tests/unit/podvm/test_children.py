"""Machines end with the program that booted them, however that ends."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from podvm import boot, children
from podvm.errors import ImageError
from podvm.places import IMAGE, PROJECT

SECONDS: Final = 60.0
FAKE: Final = """\
#!PYTHON -I
import os, pathlib, signal, socket, sys
peer = socket.socket(socket.AF_UNIX)
for word in sys.argv:
    if word.startswith("type=unixio,path="):
        peer.bind(word.removeprefix("type=unixio,path="))
        peer.listen()
path = pathlib.Path("PLACE/NAME")
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
while True:
    signal.pause()
"""
PROGRAM: Final = """\
import asyncio, os, pathlib, sys
from podvm import boot, children
from podvm.smoke.site import Site
place = pathlib.Path(sys.argv[1])
boot.CODE = boot.VARIABLES = place / "firmware"
site = Site(world=None, builds=place, work=place, logs=place, seconds=600.0)
machine = boot.Machine(disk=place / "firmware", serial=place / "serial")
children.run_until_signal(site.boot("fake", machine))
"""

pytestmark = pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="no setpriv (Debian package util-linux)"
)


@contextmanager
def booted(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """A program that boots a machine of fakes; handles of the fakes, by name."""
    names = ("qemu-system-x86_64", "swtpm")
    (place / "bin").mkdir()
    (place / "tmp").mkdir()
    (place / "firmware").touch()
    for name in names:
        text = FAKE.replace("PYTHON", sys.executable)
        text = text.replace("PLACE", str(place)).replace("NAME", name)
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)
    paths = f"{IMAGE}:{PROJECT}:{PROJECT / 'simulator'}"
    environment = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": paths,
        "TMPDIR": str(place / "tmp"),
    }
    handles: dict[str, int] = {}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(place)], env=environment) as process:
        try:
            while not all((place / name).exists() for name in names):
                assert process.poll() is None
                select.select([], [], [], 0.05)
            for name in names:
                handles[name] = os.pidfd_open(int((place / name).read_text()))
            yield process, handles
        finally:
            process.kill()
            for handle in handles.values():
                os.close(handle)


def all_ended(handles: dict[str, int]) -> bool:
    """Whether every one of these processes ends in time."""
    waiting = set(handles.values())
    while waiting:
        ready, _, _ = select.select(waiting, [], [], SECONDS)
        if not ready:
            return False
        waiting -= set(ready)
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_machine_its_tpm_and_what_they_left(
    tmp_path: Path, number: signal.Signals
) -> None:
    with booted(tmp_path) as (process, handles):
        assert list((tmp_path / "tmp").iterdir())
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number
        assert all_ended(handles)
    assert not list((tmp_path / "tmp").iterdir())


def test_a_machine_and_its_tpm_die_with_a_program_that_is_killed(tmp_path: Path) -> None:
    with booted(tmp_path) as (process, handles):
        process.kill()
        assert all_ended(handles)


def test_a_socket_that_is_bound_does_not_listen_yet(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(str(path))
        assert path.exists()
        assert not boot.is_listening(path)
        peer.listen()
        assert boot.is_listening(path)


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(ImageError, match="no-such-program is not installed"):
        children.start(["no-such-program"])


async def test_work_in_a_thread_gives_its_result_or_its_error() -> None:
    assert await children.in_thread(lambda stop: stop.is_set()) is False

    def fails(_: object) -> None:
        raise ImageError("why")

    with pytest.raises(ImageError, match="why"):
        await children.in_thread(fails)
