"""CCEL tables: the firmware's event log, in the area that ACPI reserves for it.

Source: docs/spec/attesters.md 1.5 and 2.1.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

AREA_BYTES: Final = 64 * 1024
SHA1: Final = (0x04, "sha1")
SHA256: Final = (0x0B, "sha256")
SHA384: Final = (0x0C, "sha384")


@dataclass(frozen=True, slots=True)
class FirmwareEvent:
    """One event.

    Attributes:
        register: 1 is RTMR0.
        kind: TCG event type.
        data: what was measured.
    """

    register: int
    kind: int
    data: bytes


BOOT: Final = (
    FirmwareEvent(1, 0x8000000B, b"configuration volume"),
    FirmwareEvent(1, 0x80000001, b"SecureBoot"),
    FirmwareEvent(1, 4, bytes(4)),
    FirmwareEvent(2, 0x80000003, b"kernel"),
    FirmwareEvent(2, 0x80000007, b"Calling EFI Application from Boot Option"),
    FirmwareEvent(3, 6, b"initrd"),
)
"""What a firmware might measure."""


def digest_of(event: FirmwareEvent) -> bytes:
    """What the register of an event is extended with."""
    return hashlib.sha384(event.data).digest()


def log_of(
    events: Sequence[FirmwareEvent], algorithms: Sequence[tuple[int, str]] = (SHA384,)
) -> bytes:
    """The log without its area: the Spec ID event, then the events."""
    sizes = b"".join(
        struct.pack("<HH", number, hashlib.new(name).digest_size) for number, name in algorithms
    )
    identity = (
        b"Spec ID Event03\0"
        + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
        + struct.pack("<I", len(algorithms))
        + sizes
        + b"\0"
    )
    parts = [struct.pack("<II20xI", 1, 3, len(identity)) + identity]
    for event in events:
        parts.append(struct.pack("<III", event.register, event.kind, len(algorithms)))
        parts += [
            struct.pack("<H", number) + hashlib.new(name, event.data).digest()
            for number, name in algorithms
        ]
        parts.append(struct.pack("<I", len(event.data)) + event.data)
    return b"".join(parts)


def area_of(log: bytes, *, size: int = AREA_BYTES, fill: int = 0xFF) -> bytes:
    """The reserved area that begins with the log."""
    return log.ljust(size, bytes((fill,)))


def header_of(log_length: int) -> bytes:
    """The ACPI table that says where the area is."""
    table = b"CCEL" + struct.pack("<I", 56) + b"\x01\0BOCHS BXPC    " + bytes(14)
    return table[:36].ljust(36, b"\0") + struct.pack("<BBHQQ", 2, 0, 0, log_length, 0x7EFF0000)
