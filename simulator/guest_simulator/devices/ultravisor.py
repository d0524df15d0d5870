"""The device `/dev/uv`: it follows the addresses that it is given, as the kernel does.

Source: docs/spec/attesters.md 13; Linux, arch/s390/include/uapi/asm/uvdevice.h.
"""

import ctypes
import errno
import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Final

from guest_simulator.tdx.tsm import failure

DEVICE: Final = "/dev/uv"
ATTEST: Final = 0xC0407501

CONTROL: Final = struct.Struct("=IHHQI44s")
ARGUMENT: Final = struct.Struct("=QQQ256s16sIIIHH")
"""In the order of this machine's bytes."""


@dataclass(kw_only=True)
class Ultravisor:
    """What it answers.

    Attributes:
        key: of the measurement.
        uid: of the configuration.
        additional: what it knows besides.
        code: `uv_rc`; 1 is that it did what was asked.
        reason: `uv_rrc`.
        fixed: the measurement, whatever was asked; None is an HMAC by the key.
        requests: control blocks and user data that came, for tests.
    """

    key: bytes = bytes(range(64))
    uid: bytes = bytes(range(16))
    additional: bytes = b"\xad" * 32
    code: int = 1
    reason: int = 0
    fixed: bytes | None = None
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)

    def control(self, code: int, argument: bytearray) -> None:
        """One ioctl."""
        if code != ATTEST:
            raise failure(errno.ENOTTY)
        flags, _, _, address, length, reserved = CONTROL.unpack(bytes(argument))
        if flags or any(reserved) or length != ARGUMENT.size:
            raise failure(errno.EINVAL)
        fields = list(ARGUMENT.unpack(ctypes.string_at(address, length)))
        arcb, place, more, user, _, arcb_length, size, more_size, user_length, _ = fields
        if not arcb_length or not size or user_length > 256:
            raise failure(errno.EINVAL)
        CONTROL.pack_into(argument, 0, 0, self.code, self.reason, address, length, reserved)
        if self.code != 1:
            return
        request = ctypes.string_at(arcb, arcb_length)
        self.requests.append((request, user[:user_length]))
        ctypes.memmove(place, self.measurement(request, user[:user_length], size), size)
        ctypes.memmove(more, self.additional[:more_size], min(more_size, len(self.additional)))
        fields[4], fields[7] = self.uid, len(self.additional)
        ctypes.memmove(address, ARGUMENT.pack(*fields), length)

    def measurement(self, request: bytes, user_data: bytes, size: int) -> bytes:
        """What authenticates the answer, as this one computes it."""
        if self.fixed is not None:
            return self.fixed
        text = request + user_data + self.uid + self.additional
        return hmac.digest(self.key, text, hashlib.sha512)[:size].ljust(size, b"\0")
