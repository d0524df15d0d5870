"""A machine for tests in QEMU, booted without firmware: kernel, initrd, read-only disks, one port.

What the guest writes to the port is its result; its console is shown while it runs.

Source: docs/spec/podvm-emulation.md, "Boot".
"""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from podvm import children
from podvm.errors import ImageError

QEMU: Final = "qemu-system-x86_64"
CMDLINE: Final = "console=ttyS0 panic=-1 no_timer_check loglevel=1 random.trust_cpu=on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What is booted.

    Attributes:
        kernel: bzImage.
        initrd: compressed archive.
        disks: raw images, read-only, `/dev/vda` first.
        results: file that gets what the guest writes to its port.
        memory: MiB.
    """

    kernel: Path
    initrd: Path
    disks: Sequence[Path]
    results: Path
    memory: int = 2048


def require_qemu() -> None:
    """Say so early when no machine can be started.

    Raises:
        ImageError: QEMU is missing.
    """
    if shutil.which(QEMU) is None:
        raise ImageError(f"{QEMU} is not installed (Debian package qemu-system-x86)")


def command(guest: Guest) -> list[str]:
    """The arguments of QEMU."""
    words = [
        QEMU, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-smp", "2",
        "-m", str(guest.memory), "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-monitor", "none", "-nic", "none", "-serial", "stdio",
        "-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", CMDLINE,
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        "-chardev", f"file,id=results,path={guest.results}",
        "-device", "virtserialport,chardev=results,name=results",
    ]  # fmt: skip
    for number, disk in enumerate(guest.disks):
        words += [
            "-drive", f"file={disk},format=raw,if=none,readonly=on,id=disk{number}",
            "-device", f"virtio-blk-pci,drive=disk{number}",
        ]  # fmt: skip
    return words


def run_guest(guest: Guest, *, deadline: float, console: Path, show: TextIO = sys.stdout) -> float:
    """Boot, show and keep the console, wait for power-off; give the seconds it took.

    Args:
        guest: what to boot.
        deadline: seconds after which it is killed.
        console: file that keeps the console's output.
        show: where the console is shown.

    Raises:
        ImageError: QEMU is missing or fails, or the deadline passes.
    """
    require_qemu()
    guest.results.write_bytes(b"")
    started = time.monotonic()
    process = children.start(command(guest), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(deadline, give_up)
    timer.start()
    try:
        last = _copy_lines(process, console, show)
        status = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if late.is_set():
        raise ImageError(f"the machine did not end in {deadline:.0f} s; its console: {console}")
    if status != 0:
        raise ImageError(f"QEMU ended with {status}: {last}")
    return time.monotonic() - started


def _copy_lines(process: subprocess.Popen[bytes], console: Path, show: TextIO) -> str:
    """Copy the console line by line; give its last one."""
    last = ""
    if process.stdout is None:
        return last
    with process.stdout as lines, console.open("w", encoding="utf-8") as kept:
        for line in lines:
            last = line.decode("utf-8", "replace").rstrip("\r\n")
            print(last, file=kept, flush=True)
            print(last, file=show, flush=True)
    return last
