"""`/dev/sev-guest` with the kernel's semantics.

Source: docs/spec/attesters.md 4.2 (Linux, Documentation/virt/coco/sev-guest.rst).
"""

import errno
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from guest_simulator.machine import read_memory, write_memory
from guest_simulator.tdx.tsm import failure

PATH: Final = "/dev/sev-guest"
GET_REPORT: Final = 0xC0205300
GET_EXT_REPORT: Final = 0xC0205302
PAGE: Final = 4096
MAX_TABLE: Final = 4 * PAGE
INVALID_LENGTH: Final = 1
BUSY: Final = 2


@dataclass(kw_only=True)
class SevGuest:
    """The device.

    Attributes:
        generate: makes a report for 64 bytes.
        table: makes the host's certificate table.
        seconds: what a report takes.
        busy: how often the host says that it is busy before it answers.
        lost: the key to the security processor was given up.
        fails: a firmware error that every request meets; the kernel then gives the key up.
        status: what the firmware's response says.
        size: length of the report as the response says.
        transform: what becomes of a report on its way.
        requests: user data of all requests.
    """

    generate: Callable[[bytes], bytes]
    table: Callable[[], bytes] = bytes
    seconds: float = 0.0
    busy: int = 0
    lost: bool = False
    fails: int = 0
    status: int = 0
    size: int = 1184
    transform: Callable[[bytes], bytes] | None = None

    def __post_init__(self) -> None:
        self.requests: list[bytes] = []

    def control(self, code: int, argument: bytearray) -> None:
        """See `Device`."""
        if code not in (GET_REPORT, GET_EXT_REPORT):
            raise failure(errno.ENOTTY)
        version, request, response, _ = struct.unpack("<B7xQQQ", argument)
        if version != 1:
            raise failure(errno.EINVAL)
        user_data = read_memory(request, 64)
        if any(read_memory(request + 64, 32)):
            raise failure(errno.EINVAL)
        self.requests.append(user_data)
        if self.lost:
            raise failure(errno.ENOTTY)
        if self.fails:
            self.lost = True
            self._fail(argument, self.fails)
        if self.busy:
            self.busy -= 1
            self._fail(argument, BUSY << 32, errno.EAGAIN)
        if code == GET_EXT_REPORT:
            self._give_table(argument, request)
        time.sleep(self.seconds)
        report = self.generate(user_data)
        if self.transform is not None:
            report = self.transform(report)
        head = struct.pack("<II24x", self.status, self.size)
        write_memory(response, (head + report).ljust(4000, b"\0"))

    def _give_table(self, argument: bytearray, request: int) -> None:
        address, length = struct.unpack("<QI", read_memory(request + 96, 12))
        if length > MAX_TABLE or length % PAGE:
            raise failure(errno.EINVAL)
        table = self.table()
        needed = -(-len(table) // PAGE) * PAGE
        if needed > length:
            write_memory(request + 104, struct.pack("<I", needed))
            self._fail(argument, INVALID_LENGTH << 32)
        if table:
            write_memory(address, table.ljust(length, b"\0"))

    def _fail(self, argument: bytearray, result: int, number: int = errno.EIO) -> None:
        struct.pack_into("<Q", argument, 24, result)
        raise failure(number)
