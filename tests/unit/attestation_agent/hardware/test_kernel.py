"""This machine's kernel, on files that every machine has."""

import ctypes
import errno
import os
import struct
import termios
from pathlib import Path

import pytest

from attestation_agent.hardware.kernel import KERNEL, Kernel


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


def test_an_ioctl_gets_the_address_and_length_of_a_buffer_and_may_fill_it() -> None:
    class Filling(Kernel):
        def control(self, path: str, code: int, argument: bytearray) -> None:
            address, length = struct.unpack("=QQ", argument)
            ctypes.memset(address, 7, length)

    buffer = bytearray(16384)
    Filling().control_buffer("/dev/x", 1, buffer)
    assert buffer == b"\7" * 16384
    buffer.append(0)
