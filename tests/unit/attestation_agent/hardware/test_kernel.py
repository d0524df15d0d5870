"""This machine's kernel, on files that every machine has."""

import ctypes
import errno
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from attestation_agent.hardware.kernel import KERNEL, Kernel
from guest_simulator.tdx.mounted import is_mounted
from support.source_tree import ROOT


def test_only_what_is_not_there_is_absent(short_tmp: Path) -> None:
    assert KERNEL.exists(str(short_tmp))
    assert not KERNEL.exists(f"{short_tmp}/none")
    (short_tmp / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        KERNEL.exists(f"{short_tmp}/loop")
    assert caught.value.errno == errno.ELOOP


def test_directories_files_and_limits(short_tmp: Path) -> None:
    KERNEL.make_directory(f"{short_tmp}/d")
    assert (short_tmp / "d").stat().st_mode & 0o777 == 0o700
    (short_tmp / "d" / "f").write_bytes(bytes(200_000))
    assert KERNEL.list_names(f"{short_tmp}/d") == ["f"]
    assert len(KERNEL.read(f"{short_tmp}/d/f", 1_000_000)) == 200_000
    assert len(KERNEL.read(f"{short_tmp}/d/f", 70_000)) == 70_000
    assert KERNEL.write(f"{short_tmp}/d/f", b"abc") == 3
    assert KERNEL.read(f"{short_tmp}/d/f", 4) == b"abc\0"
    with pytest.raises(FileNotFoundError):
        KERNEL.write(f"{short_tmp}/d/none", b"")
    (short_tmp / "d" / "f").unlink()
    KERNEL.remove_directory(f"{short_tmp}/d")
    assert not KERNEL.exists(f"{short_tmp}/d")


def test_an_ioctl_changes_its_argument_and_an_unknown_one_is_enotty() -> None:
    master, slave = os.openpty()
    try:
        argument = bytearray(8)
        termios.tcsetwinsize(slave, (24, 80))
        KERNEL.control(os.ttyname(slave), termios.TIOCGWINSZ, argument)
        assert struct.unpack("HHHH", argument)[:2] == (24, 80)
    finally:
        os.close(master)
        os.close(slave)
    with pytest.raises(OSError) as caught:
        KERNEL.control("/dev/null", 0xC4405401, bytearray(1088))
    assert caught.value.errno == errno.ENOTTY


def test_a_long_argument_is_changed_where_it_is() -> None:
    master, slave = os.openpty()
    try:
        argument = bytearray(1088)
        termios.tcsetwinsize(slave, (24, 80))
        KERNEL.control(os.ttyname(slave), termios.TIOCGWINSZ, argument)
        assert struct.unpack("HHHH", argument[:8])[:2] == (24, 80)
        assert argument[8:] == bytes(1080)
        argument.append(0)  # nothing holds it any more
    finally:
        os.close(master)
        os.close(slave)


SERVED_BY_ITSELF = """
import os, subprocess, sys, threading, time
os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
sys.path[:0] = sys.argv[1].split(":")
import mfusepy
from attestation_agent.hardware.kernel import KERNEL
from guest_simulator.tdx.guest import TdxGuest
from guest_simulator.tdx.mounted import is_mounted
from guest_simulator.tdx.tree import DEVICE, Tree, unmount
from pathlib import Path

root = sys.argv[2]
tree = Tree(TdxGuest(root=root))
serve = lambda: mfusepy.FUSE(tree, root + "/sys", raw_fi=True, foreground=True)
threading.Thread(target=serve, daemon=True).start()
while not is_mounted(Path(root + "/sys")):
    time.sleep(0.01)
argument = bytearray(b"d" * 64) + bytes(1024)
KERNEL.control(root + "/sys" + DEVICE, 0xC4405401, argument)
unmount(root + "/sys")
os.write(1, argument[64 + 128 : 64 + 192])
os._exit(0)
"""


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.fuse
def test_other_threads_run_during_an_ioctl_with_a_long_argument(short_tmp: Path) -> None:
    """Another thread of the same process is the device: without it the call never ended."""
    (short_tmp / "sys").mkdir()
    paths = f"{ROOT}:{ROOT / 'simulator'}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVED_BY_ITSELF, paths, str(short_tmp)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        found, text = process.communicate(timeout=60)
    finally:
        if is_mounted(short_tmp / "sys"):  # it hangs in its own call: end that first
            subprocess.run(["umount", "-f", str(short_tmp / "sys")], check=False)
        process.kill()
        process.wait()
    assert found == b"d" * 64, text.decode()


def test_an_ioctl_gets_the_address_and_length_of_a_buffer_and_may_fill_it() -> None:
    class Filling(Kernel):
        def control(self, path: str, code: int, argument: bytearray) -> None:
            address, length = struct.unpack("=QQ", argument)
            ctypes.memset(address, 7, length)

    buffer = bytearray(16384)
    Filling().control_buffer("/dev/x", 1, buffer)
    assert buffer == b"\7" * 16384
    buffer.append(0)
