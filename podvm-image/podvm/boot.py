"""Boots an image in QEMU without hardware virtualisation: OVMF, a software TPM, a serial file.

`-cx16` is taken from the processor because Linux 6.12 fails at random with it under emulation.

Source: docs/spec/podvm-emulation.md, "Boot".
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podvm import children
from podvm.errors import ImageError

CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
POLL: Final = 0.5
"""Seconds between two looks at the serial file."""

PROCESSOR: Final = "max,-cx16"
"""Other models were slower; without `svm` too, static programs of glibc abort (QEMU 7.2)."""

PRESS_AGAIN: Final = 15.0
"""Seconds after which a power button that nobody heeded is pressed again."""

MONITOR_SECONDS: Final = 10.0
"""Seconds that the monitor may take to answer."""

ACCEPTS: Final = "00010000"
"""Flags of a socket that listens, in the kernel's table."""

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is booted.

    Attributes:
        disk: the image; it is never written to.
        disk_format: `raw`, or `qcow2` for a larger disk over a raw image.
        serial: file that gets the console's output.
        memory: MiB.
        processors: how many; with one, the emulator's races of threads do not exist, and two
            machines side by side need no more.
        smbios: system manufacturer and product, or None.
        network: options of QEMU's user network, after `user,id=net`.
        extra: more arguments for QEMU.
        power_button_after: text after which the power button is pressed; nothing: never.
    """

    disk: Path
    serial: Path
    disk_format: str = "raw"
    memory: int = 1024
    processors: int = 1
    smbios: tuple[str, str] | None = None
    network: str = ""
    extra: Sequence[str] = field(default=())
    power_button_after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a boot ended.

    Attributes:
        seconds: from start to end.
        seen: seconds after which each mark was first read.
        ended: whether the guest switched itself off.
        cpu: seconds of processor time that the emulator used; those of load do not count.
    """

    seconds: float
    seen: dict[str, float]
    ended: bool
    cpu: float


def boot(
    machine: Machine,
    *,
    deadline: float,
    marks: Sequence[str],
    until: str = "",
    stop: threading.Event | None = None,
) -> Outcome:
    """Boot, watch the console, and end the machine whatever happens, with this process at last.

    Args:
        machine: what to boot.
        deadline: seconds after which it is killed.
        marks: texts whose first appearance is timed.
        until: text after which the machine is killed; nothing: when it switches itself off.
        stop: kills it when set.

    Raises:
        ImageError: QEMU, OVMF or swtpm is missing, or QEMU fails.
    """
    for needed in (CODE, VARIABLES, machine.disk):
        if not needed.exists():
            raise ImageError(f"{needed} is missing")
    with tempfile.TemporaryDirectory(prefix="podvm-") as name:
        state = Path(name)
        shutil.copy(VARIABLES, state / "vars.fd")
        tpm = _start_tpm(state)
        try:
            return _watch(machine, state, deadline, marks, until, stop or threading.Event())
        finally:
            tpm.terminate()
            try:
                tpm.wait(10)
            except subprocess.TimeoutExpired:
                tpm.kill()
                tpm.wait()


def _start_tpm(state: Path) -> subprocess.Popen[bytes]:
    (state / "tpm").mkdir()
    socket = state / "tpm.sock"
    words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state / 'tpm'}", "--ctrl",
             f"type=unixio,path={socket}", "--flags", "startup-clear", "--terminate"]  # fmt: skip
    process = children.start(words)
    limit = time.monotonic() + 20
    while not is_listening(socket):
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            process.wait()
            raise ImageError("swtpm did not start")
        time.sleep(0.05)
    return process


def is_listening(path: Path) -> bool:
    """Whether a Unix socket of that path accepts; none is connected to find out.

    The path alone says little: it is there before the socket listens.
    """
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(words[3] == ACCEPTS and words[-1] == str(path) for words in lines)


def command(machine: Machine, state: Path) -> list[str]:
    """The arguments of QEMU."""
    words = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR,
        "-smp", str(machine.processors), "-m", str(machine.memory),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", f"file:{machine.serial}",
        "-monitor", f"unix:{state / 'monitor.sock'},server=on,wait=off",
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}",
        "-drive", f"if=pflash,format=raw,unit=1,file={state / 'vars.fd'}",
        "-drive", f"file={machine.disk},format={machine.disk_format},if=none,id=disk,snapshot=on",
        "-device", "virtio-blk-pci,drive=disk,serial=podvm",
        "-netdev", f"user,id=net{machine.network and ','}{machine.network}",
        "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci",
        "-chardev", f"socket,id=tpm,path={state / 'tpm.sock'}",
        "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0",
    ]  # fmt: skip
    if machine.smbios is not None:
        manufacturer, product = machine.smbios
        words += ["-smbios", f"type=1,manufacturer={manufacturer},product={product}"]
    return [*words, *machine.extra]


def plain(console: str) -> str:
    """A console's output without colours and cursor movements."""
    return _ESCAPES.sub("", console)


def press_power_button(state: Path) -> None:
    """Have the firmware tell the guest that somebody wants it off."""
    prompt = b"(qemu) "
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(MONITOR_SECONDS)
        peer.connect(str(state / "monitor.sock"))
        peer.sendall(b"system_powerdown\n")
        said = b""
        # The prompt that comes after the command says that it was done; before, it can be lost.
        while said.count(prompt) < 2 and (more := peer.recv(4096)):
            said += more


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _start(machine: Machine, state: Path) -> subprocess.Popen[bytes]:
    machine.serial.write_bytes(b"")
    return children.start(command(machine, state), stderr=subprocess.PIPE)


def _watch(
    machine: Machine,
    state: Path,
    deadline: float,
    marks: Sequence[str],
    until: str,
    stop: threading.Event,
) -> Outcome:
    process = _start(machine, state)
    started = time.monotonic()
    button = machine.power_button_after
    seen: dict[str, float] = {}
    press_at = float("inf")
    cpu = 0.0
    try:
        while (now := time.monotonic() - started) < deadline:
            alive = process.poll() is None
            cpu = max(cpu, _cpu_seconds(process.pid))
            text = plain(machine.serial.read_text("utf-8", "replace"))
            for mark in marks:
                if mark not in seen and mark in text:
                    seen[mark] = round(now, 1)
            if not alive or stop.is_set() or (until and until in text):
                break
            if press_at == float("inf") and button and button in text:
                press_at = now
            if now >= press_at:
                press_at = now + PRESS_AGAIN
                with contextlib.suppress(OSError):
                    press_power_button(state)
            stop.wait(POLL)
        status = process.poll()
        if status not in (None, 0):
            said = process.stderr.read().decode(errors="replace") if process.stderr else ""
            raise ImageError(f"QEMU ended with {status}: {said.strip()[-2000:]}")
        took = time.monotonic() - started
        return Outcome(seconds=took, seen=seen, ended=status == 0, cpu=cpu)
    finally:
        process.kill()
        process.wait()
