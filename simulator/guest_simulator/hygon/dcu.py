"""`/dev/mkfd` and the topology of a machine with Hygon accelerators.

Source: docs/spec/attesters.md 12.3.
"""

import errno
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest_simulator.machine import read_memory, write_memory
from guest_simulator.tdx.tsm import failure

PATH: Final = "/dev/mkfd"
TOPOLOGY: Final = "/sys/devices/virtual/kfd/kfd/topology/nodes"
ATTEST: Final = 0xC0384D17


def put_nodes(root: Path, *ids: int) -> None:
    """Make the topology: a number for each node, 0 for a processor."""
    for number, gpu_id in enumerate(ids):
        folder = root / TOPOLOGY.lstrip("/") / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu_id").write_text(f"{gpu_id}\n")


@dataclass(kw_only=True)
class Mkfd:
    """The device.

    Attributes:
        accelerators: those that the driver has.
        seconds: what a report takes.
        firmware_error: what requests meet.
        transform: what becomes of the answering page.
    """

    accelerators: tuple[int, ...] = (51234, 4711)
    seconds: float = 0.0
    firmware_error: int = 0
    transform: Callable[[bytes], bytes] | None = None

    def control(self, code: int, argument: bytearray) -> None:
        """See `Device`."""
        if code != ATTEST:
            raise failure(errno.ENOTTY)
        accelerator, command, version, request, length, response, room, _ = struct.unpack(
            "<III4xQQQQQ", argument
        )
        if accelerator not in self.accelerators:
            raise failure(errno.ENODEV)
        if (command, version, length, room) != (0, 1, 4096, 4096):
            raise failure(errno.EINVAL)
        if self.firmware_error:
            struct.pack_into("<Q", argument, 48, self.firmware_error)
            return
        time.sleep(self.seconds)
        user_data = read_memory(request, 64)
        answer = self.answer(accelerator, user_data)
        write_memory(response, answer if self.transform is None else self.transform(answer))

    def answer(self, accelerator: int, user_data: bytes) -> bytes:
        """The page that an accelerator's firmware fills."""
        chip_id = f"DCU{accelerator}".encode().ljust(16, b"\0")
        report = struct.pack("<I", 1) + chip_id + user_data + b"\x3e" * 32 + bytes(128)
        report += struct.pack("<II", 0x1008, 4) + b"\x0a" * 72 + b"\x0b" * 72
        return (struct.pack("<I28x", len(report)) + report).ljust(4096, b"\0")
