"""The walls of a worker, seen from inside: children of this test try to get out."""

import subprocess
import sys
from pathlib import Path

import pytest

from image_pull.layers import jail
from image_pull.layers.record import Jail

TRY = """
import os, sys, ctypes, socket, resource
from image_pull.layers import worker, jail
from image_pull.layers.record import Jail
root, walls = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), Jail(sys.argv[2])
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    try:
        worker.place_descriptors(theirs.fileno(), root)
    except BaseException:
        os._exit(7)
if child == 0:
    worker.enter_jail(0, walls, os.getppid())
    lines = []
    def attempt(name, function):
        try:
            function()
            lines.append(name + " worked")
        except BaseException as error:
            lines.append(name + " " + type(error).__name__)
    attempt("import", lambda: __import__("zipfile"))
    attempt("codec", lambda: b"x".decode("cp037"))
    attempt("fork", os.fork)
    attempt("outside", lambda: os.open(sys.argv[3], os.O_RDONLY))
    attempt("write", lambda: os.open(sys.argv[3] + ".new", os.O_WRONLY | os.O_CREAT))
    attempt("climb", lambda: os.open("../" * 40 + sys.argv[3][1:], os.O_RDONLY))
    attempt("inside", lambda: os.close(os.open("made", os.O_WRONLY | os.O_CREAT, dir_fd=0)))
    attempt("stderr", lambda: os.write(2, b"x"))
    attempt("device", lambda: os.mknod("node", 0o20600, os.makedev(1, 3), dir_fd=0))
    attempt("uid", lambda: os.setuid(0))
    attempt("memory", lambda: bytearray(jail.MEMORY))
    for fd in range(3, 64):
        try:
            os.fstat(fd)
            lines.append("open %d" % fd)
        except OSError:
            pass
    lines.append("ids %d %d" % (os.getuid(), os.getgid()))
    socket.socket(fileno=3).send(chr(10).join(lines).encode())
    os._exit(0)
theirs.close()
print(ours.recv(65536).decode())
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def look(place: Path, walls: Jail, canary: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", TRY, str(place), walls.value, str(canary)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    lines = set(done.stdout.splitlines())
    assert "status 0" in lines, done
    return lines


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    place = tmp_path / "canary"
    place.write_text("mine")
    (tmp_path / "root").mkdir()
    return place


COMMON = {"import ModuleNotFoundError", "inside worked", "stderr OSError", "memory MemoryError"}


@pytest.mark.root
def test_in_the_full_jail_nothing_is_left_but_the_directory(tmp_path: Path, canary: Path) -> None:
    lines = look(tmp_path / "root", Jail.FULL, canary)
    assert lines >= COMMON
    assert {"fork BlockingIOError", "codec LookupError", "uid PermissionError"} <= lines
    assert {"outside FileNotFoundError", "climb FileNotFoundError"} <= lines
    assert {"write FileNotFoundError", "device PermissionError"} <= lines
    assert {"open 3", "ids 65534 65534"} <= lines
    assert not {line for line in lines if line.startswith("open ")} - {"open 3"}
    assert (tmp_path / "root/made").stat().st_uid == jail.NOBODY


@pytest.mark.skipif(not jail.landlock_version(), reason="this kernel has no Landlock")
def test_under_landlock_no_file_outside_opens(tmp_path: Path, canary: Path) -> None:
    lines = look(tmp_path / "root", Jail.LANDLOCK, canary)
    assert lines >= COMMON
    assert {"outside PermissionError", "climb PermissionError"} <= lines
    assert "write PermissionError" in lines


def test_without_any_wall_imports_and_descriptors_are_gone_all_the_same(
    tmp_path: Path, canary: Path
) -> None:
    lines = look(tmp_path / "root", Jail.RESOLVER, canary)
    assert lines >= COMMON
    assert {"codec LookupError", "open 3"} <= lines


def test_the_jail_is_probed_not_concluded() -> None:
    code = "from image_pull.layers.server import probe_jail; print(*probe_jail())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=50
    )
    kind, _, why = done.stdout.strip().partition(" ")
    assert kind in set(Jail)
    assert (kind == "full") == (why == "")


@pytest.mark.root
def test_root_without_the_capabilities_has_no_full_jail() -> None:
    code = "from image_pull.layers.server import probe_jail; print(*probe_jail())"
    for dropped in ("sys_chroot", "setuid", "chown", "setfcap"):
        command = ["setpriv", f"--bounding-set=-{dropped}", f"--inh-caps=-{dropped}"]
        done = subprocess.run(
            [*command, sys.executable, "-I", "-c", code],
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stdout.startswith("full"), dropped


def test_the_unpack_server_is_as_hard_as_every_other_process() -> None:
    script = """
import os, resource, ctypes
from image_pull.layers.jail import harden
harden()
print(os.umask(0), resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout == "63 (0, 0) 0\n", done.stderr
