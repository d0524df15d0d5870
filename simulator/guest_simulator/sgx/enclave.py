"""An enclave with a library operating system: Gramine's files or Occlum's device.

Quotes of version 3 are built field by field and signed with the keys of a simulated platform.

Source: docs/spec/attesters.md 11 (Intel SGX DCAP quoting library API, appendix A.4).
"""

import errno
import hashlib
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from guest_simulator.machine import read_memory, write_memory
from guest_simulator.tdx.quote import INTEL_VENDOR_ID, Platform
from guest_simulator.tdx.tsm import failure

ATTESTATION_TYPE: Final = "/dev/attestation/attestation_type"
USER_REPORT_DATA: Final = "/dev/attestation/user_report_data"
QUOTE: Final = "/dev/attestation/quote"
OCCLUM: Final = "/dev/sgx"
GET_QUOTE_SIZE: Final = 0x80047307
GENERATE_QUOTE: Final = 0xC0187308


@dataclass(kw_only=True)
class Enclave:
    """What is attested.

    Attributes:
        platform: signs the quotes.
        seconds: what a quote takes.
        transform: what becomes of a quote on its way.
    """

    platform: Platform = field(default_factory=Platform.generate)
    mrenclave: bytes = b"\xe1" * 32
    mrsigner: bytes = b"\x51" * 32
    config_id: bytes = bytes(64)
    seconds: float = 0.0
    transform: Callable[[bytes], bytes] | None = None

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes."""
        time.sleep(self.seconds)
        header = struct.pack("<HHIHH", 3, 2, 0, 8, 10) + INTEL_VENDOR_ID + bytes(20)
        body = bytearray(384)
        for offset, content in (
            (0, bytes(range(16))),
            (48, b"\x07" * 16),
            (64, self.mrenclave),
            (128, self.mrsigner),
            (192, self.config_id),
            (320, report_data),
        ):
            body[offset : offset + len(content)] = content
        signed = header + bytes(body)
        section = self._section(signed)
        quote = signed + struct.pack("<I", len(section)) + section
        return quote if self.transform is None else self.transform(quote)

    def _section(self, signed: bytes) -> bytes:
        numbers = self.platform.attestation_key.public_key().public_numbers()
        key = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        auth = bytes(range(32))
        report = bytes(320) + hashlib.sha256(key + auth).digest() + bytes(32)
        return b"".join(
            (
                _sign(self.platform.attestation_key, signed),
                key,
                report,
                _sign(self.platform.pck_key, report),
                struct.pack("<H", len(auth)) + auth,
                struct.pack("<HI", 5, len(self.platform.chain)) + self.platform.chain,
            )
        )


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class GramineReportData:
    """The file that takes the report data; all of the process shares it."""

    def __init__(self) -> None:
        """Zeros."""
        self.content = bytes(64)

    def read(self) -> bytes:
        """What was written last."""
        return self.content

    def write(self, data: bytes) -> int:
        """Take at most 64 bytes."""
        if len(data) > 64:
            raise failure(errno.EINVAL)
        self.content = data.ljust(64, b"\0")
        return len(data)


class GramineQuote:
    """The file that reads as a quote."""

    def __init__(self, enclave: Enclave, report_data: GramineReportData) -> None:
        """Quote nothing yet."""
        self._enclave = enclave
        self._report_data = report_data

    def read(self) -> bytes:
        """A quote over the report data of this moment."""
        return self._enclave.quote(self._report_data.content)

    def write(self, data: bytes) -> int:
        """It takes nothing."""
        raise failure(errno.EACCES)


@dataclass(kw_only=True)
class OcclumDevice:
    """`/dev/sgx`.

    Attributes:
        enclave: what is quoted.
        room: the size that it tells; None is enough.
        told: the length that it tells of a quote; None is the truth.
    """

    enclave: Enclave
    room: int | None = None
    told: int | None = None

    def control(self, code: int, argument: bytearray) -> None:
        """See `Device`."""
        if code == GET_QUOTE_SIZE:
            room = len(self.enclave.quote(bytes(64))) + 64 if self.room is None else self.room
            argument[:] = struct.pack("<I", room)
        elif code == GENERATE_QUOTE:
            data, length, buffer = struct.unpack("<QQQ", argument)
            (room,) = struct.unpack("<I", read_memory(length, 4))
            quote = self.enclave.quote(read_memory(data, 64))
            if len(quote) > room:
                raise failure(errno.EINVAL)
            write_memory(buffer, quote)
            told = len(quote) if self.told is None else self.told
            write_memory(length, struct.pack("<I", told))
        else:
            raise failure(errno.ENOTTY)
