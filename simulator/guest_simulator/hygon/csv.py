"""A CSV guest's device: reports behind a number of the firmware's choice, and registers.

Source: docs/spec/attesters.md 12.1 and 12.2.
"""

import errno
import hmac
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from guest_simulator.machine import read_memory, write_memory
from guest_simulator.tdx.tsm import failure

PATH: Final = "/dev/csv-guest"
GET_REPORT: Final = 0xC0104401
RTMR: Final = 0xC0184402
MAGIC: Final = b"ATTESTATION_EXT\0"
PAGE: Final = 4096


def sm3(data: bytes) -> bytes:
    """The digest."""
    computation = hashes.Hash(hashes.SM3())
    computation.update(data)
    return computation.finalize()


def hidden(data: bytes, anonce: int) -> bytes:
    """XOR with the number over and over, least significant byte first."""
    word = struct.pack("<I", anonce)
    return bytes(byte ^ word[at % 4] for at, byte in enumerate(data))


def certificate_of(seed: int = 1) -> bytes:
    """A certificate of 2084 bytes whose fields all differ."""
    head = struct.pack("<IBBH", seed, 2, 3, 4) + struct.pack("<II", 0x1002, 4)
    key = struct.pack("<I", 3) + b"\x11" * 72 + b"\x12" * 72
    user = struct.pack("<H", 17) + b"HYGON-SSD-PEK-TST".ljust(254, b"\0")
    signed = (head + key + user + b"\x13" * 16).ljust(1044, b"\0")
    signatures = b"".join(
        struct.pack("<II", usage, 4) + b"\x14" * 72 + bytes((usage,)) * 72 + bytes(368)
        for usage in (0x14, 0x15)
    )
    return signed + signatures


@dataclass(kw_only=True)
class CsvGuest:
    """The device and the firmware behind it.

    Attributes:
        has_registers: the firmware has the runtime measurement registers.
        serial_number: of the chip.
        anonce: what legacy reports hide behind.
        state: of the registers: 0 not started, 1 started, 2 in use.
        firmware_error: what register requests meet.
        seconds: what a report takes.
        transform: what becomes of the answering page.
    """

    has_registers: bool = True
    serial_number: bytes = b"TEST2026CHIP0042".ljust(64, b"\0")
    anonce: int = 0x12345678
    measure: bytes = b"\x3e" * 32
    policy: int = 0x0001
    pek: bytes = field(default_factory=certificate_of)
    state: int = 0
    firmware_error: int = 0
    seconds: float = 0.0
    transform: Callable[[bytes], bytes] | None = None

    def __post_init__(self) -> None:
        self.registers = [bytes(32)] * 5
        self.commands: list[int] = []

    def extend(self, number: int, digest: bytes) -> None:
        """As the firmware does."""
        self.registers[number] = sm3(self.registers[number] + digest)

    def control(self, code: int, argument: bytearray) -> None:
        """See `Device`."""
        if code == GET_REPORT and len(argument) == 16:
            address, length = struct.unpack("<QI4x", argument)
            if length != PAGE or address % PAGE:
                raise failure(errno.EINVAL)
            answer = self.report(read_memory(address, length))
            write_memory(address, answer if self.transform is None else self.transform(answer))
        elif code == RTMR and len(argument) == 24 and self.has_registers:
            address, length, command, _, _ = struct.unpack("<QQHHI", argument)
            if self.firmware_error:
                struct.pack_into("<I", argument, 20, self.firmware_error)
                return
            self.commands.append(command)
            write_memory(address, self.answer_to(command, read_memory(address, length)))
        else:
            raise failure(errno.ENOTTY)

    def report(self, page: bytes) -> bytes:
        """The answer to a request."""
        data, nonce, digest = page[:64], page[64:80], page[80:112]
        if not hmac.compare_digest(digest, sm3(data + nonce)):
            raise failure(errno.EINVAL)
        time.sleep(self.seconds)
        is_extended = page[112:128] == MAGIC and page[128:132] == b"\1\0\0\0"
        if is_extended and not self.has_registers:
            raise failure(errno.EINVAL)
        anonce = 0 if is_extended else self.anonce
        body = self._extended(data, nonce) if is_extended else self._legacy(data, nonce)
        pek, serial = hidden(self.pek, anonce), hidden(self.serial_number, anonce)
        reserved = b"\x99" * 32
        mac = HMAC(nonce, hashes.SM3())
        mac.update(pek + serial + reserved)
        return (body + pek + serial + reserved + mac.finalize()).ljust(PAGE, b"\0")

    def _front(self, data: bytes, nonce: bytes) -> bytes:
        """Offsets 0 to 0xb4."""
        start = b"\x0d" * 32 + b"\x0e" * 16 + b"\x0f" * 16
        return start + data + nonce + self.measure + struct.pack("<I", self.policy)

    def _legacy(self, data: bytes, nonce: bytes) -> bytes:
        front = hidden(self._front(data, nonce), self.anonce)
        return front + struct.pack("<III", 0x1000, 4, self.anonce) + b"\x0a" * 72 + b"\x0b" * 72

    def _extended(self, data: bytes, nonce: bytes) -> bytes:
        front = self._front(data, nonce) + struct.pack("<II", 0x1000, 4)
        middle = struct.pack("<IH14x", 2026, 1) + b"".join(self.registers)
        return (front + middle).ljust(0x400, b"\0") + b"\x0a" * 72 + b"\x0b" * 72

    def answer_to(self, command: int, request: bytes) -> bytes:
        """What the buffer of a register request holds afterwards."""
        if command == 1:
            return struct.pack("<HB", 1, self.state)
        if command == 2 and request == b"\1\0":
            if self.state:
                raise failure(errno.EALREADY)
            self.state = 1
            return request
        if not self.state:
            raise failure(errno.EPERM)
        if command == 3:
            (bitmap,) = struct.unpack_from("<I", request)
            found = [value for at, value in enumerate(self.registers) if bitmap >> at & 1]
            if len(request) < 4 + 32 * len(found):
                raise failure(errno.EINVAL)
            return request[:4] + b"".join(found)
        if command == 4:
            number, _, length = struct.unpack_from("<BBH", request)
            if number >= 5 or length != 32 or len(request) != 36:
                raise failure(errno.EINVAL)
            self.state = 2
            self.extend(number, request[4:])
            return request
        raise failure(errno.EINVAL)
