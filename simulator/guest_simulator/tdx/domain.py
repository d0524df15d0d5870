"""A trust domain: what the TDX module knows of it, and the TDREPORT that says so.

Source: docs/spec/attesters.md 3.2 (Intel TDX module ABI, TDREPORT_STRUCT).
"""

import hashlib
import os
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

REGISTER_BYTES: Final = 48
REGISTERS: Final = 4


class RegisterFile:
    """RTMR0 to RTMR3: in memory, or in a file that outlives the process that extends them."""

    def __init__(self, path: Path | None = None) -> None:
        """All zeros, unless the file says otherwise."""
        self._path = path
        self._lock = threading.Lock()
        self._values = [bytes(REGISTER_BYTES)] * REGISTERS
        if path is not None and path.exists():
            content = path.read_bytes()
            self._values = [
                content[i * REGISTER_BYTES : (i + 1) * REGISTER_BYTES] for i in range(REGISTERS)
            ]

    def read(self, number: int) -> bytes:
        """The 48 bytes of one."""
        return self._values[number]

    def all(self) -> tuple[bytes, ...]:
        """All of them at one moment."""
        with self._lock:
            return tuple(self._values)

    def extend(self, number: int, digest: bytes) -> None:
        """As `TDG.MR.RTMR.EXTEND` does: at once or not at all."""
        assert len(digest) == REGISTER_BYTES
        with self._lock:
            self._values[number] = hashlib.sha384(self._values[number] + digest).digest()
            if self._path is not None:
                temporary = self._path.with_suffix(".new")
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(handle, "wb") as file:
                    file.write(b"".join(self._values))
                temporary.replace(self._path)


@dataclass(kw_only=True)
class Domain:
    """One TD.

    Attributes:
        mrtd: measurement of what it was built from.
        config_id: MRCONFIGID, set by the host.
        owner: MROWNER.
        owner_config: MROWNERCONFIG.
        attributes: TD attributes; bit 28 is SEPT_VE_DISABLE.
        xfam: extended features.
        registers: RTMRs.
    """

    mrtd: bytes = bytes(range(REGISTER_BYTES))
    config_id: bytes = bytes(REGISTER_BYTES)
    owner: bytes = bytes(REGISTER_BYTES)
    owner_config: bytes = bytes(REGISTER_BYTES)
    attributes: bytes = struct.pack("<Q", 1 << 28)
    xfam: bytes = struct.pack("<Q", 0xE7)
    registers: RegisterFile = field(default_factory=RegisterFile)

    def report(self, report_data: bytes) -> bytes:
        """A TDREPORT over 64 bytes; its MAC is made up."""
        assert len(report_data) == 64
        tcb = bytes(range(1, 240))
        info = b"".join(
            (
                self.attributes,
                self.xfam,
                self.mrtd,
                self.config_id,
                self.owner,
                self.owner_config,
                *self.registers.all(),
                bytes(112),
            )
        )
        head = b"".join(
            (
                bytes((0x81, 0, 1, 0)),
                bytes(12),
                bytes(range(16)),
                hashlib.sha384(tcb).digest(),
                hashlib.sha384(info).digest(),
                report_data,
                bytes(32),
                b"\xaa" * 32,
            )
        )
        return head + tcb + bytes(17) + info
