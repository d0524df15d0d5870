"""Azure's paravisor: the report in the virtual TPM, renewed when the guest writes what to bind.

Source: docs/spec/attesters.md 7.1, 7.2 and 8.
"""

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from guest_simulator.tpm import wire

REPORT_INDEX: Final = 0x0140_0001
REQUEST_INDEX: Final = 0x0140_0002
KEY_HANDLE: Final = 0x8100_0003

SNP: Final = 2
TDX: Final = 4

HARDWARE_BYTES: Final = 1184
NO_INDEX: Final = 0x18B


def hcl_report(kind: int, hardware: bytes, document: bytes, *, hash_type: int = 1) -> bytes:
    """A report field by field."""
    runtime = 20 + len(document)
    head = b"HCLA" + struct.pack("<IIII12x", 2, 1216 + runtime, 2, 0)
    data = struct.pack("<IIIII", runtime, 1, kind, hash_type, len(document))
    return head + hardware.ljust(HARDWARE_BYTES, b"\0") + data + document


def document_of(key: wire.RsaKey, user_data: bytes) -> bytes:
    """The JSON that names the TPM's keys and repeats what was asked to be bound."""
    modulus = _b64url(key.modulus.to_bytes(256, "big"))
    exponent = _b64url(key.exponent.to_bytes((key.exponent.bit_length() + 7) // 8, "big"))
    keys = [
        {"kid": name, "key_ops": [use], "kty": "RSA", "e": exponent, "n": modulus}
        for name, use in (("HCLAkPub", "sign"), ("HCLEkPub", "encrypt"))
    ]
    configuration = {"console-enabled": True, "secure-boot": True, "tpm-enabled": True}
    tree = {
        "keys": keys,
        "vm-configuration": configuration,
        "user-data": user_data.ljust(64, b"\0").hex().upper(),
    }
    return json.dumps(tree, separators=(",", ":")).encode()


@dataclass(kw_only=True)
class Paravisor:
    """Answers for the report's index in the TPM's place (`Relay.intercept`).

    Attributes:
        kind: `SNP` or `TDX`.
        key: the TPM's attestation key.
        make_hardware: a hardware report over 64 bytes.
        renewals: how often the index is looked at before the report is renewed.
        transform: what becomes of the report when it is read.
    """

    kind: int
    key: wire.RsaKey
    make_hardware: Callable[[bytes], bytes]
    renewals: int = 1
    transform: Callable[[bytes], bytes] | None = None
    _request: bytes = bytes(64)
    _countdown: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.report = self._make(bytes(64))

    def __call__(self, command: bytes) -> bytes | None:
        """The answer in the TPM's place, or None."""
        with self._lock:
            return self._answer(command)

    def _answer(self, command: bytes) -> bytes | None:
        code = wire.code_of(command)
        if code == wire.NV_WRITE and _second_handle(command) == REQUEST_INDEX:
            self._request = wire.unsized(command[31:])
            self._countdown = self.renewals
        elif code == wire.NV_READ_PUBLIC and _first_handle(command) == REPORT_INDEX:
            return self._public()
        elif code == wire.NV_READ and _second_handle(command) == REPORT_INDEX:
            length, offset = struct.unpack_from(">HH", command, 31)
            piece = self._content()[offset : offset + length]
            return wire.response(wire.sized(piece), sessions=True)
        return None

    def _public(self) -> bytes:
        if self._countdown > 0:
            self._countdown -= 1
            if self._countdown == 0:
                self.report = self._make(self._request)
        size = len(self._content())
        area = struct.pack(">IHIHH", REPORT_INDEX, 0x0B, 0x2204_0004, 0, size)
        name = struct.pack(">H", 0x0B) + hashlib.sha256(area).digest()
        return wire.response(wire.sized(area) + wire.sized(name))

    def _content(self) -> bytes:
        return self.report if self.transform is None else self.transform(self.report)

    def _make(self, user_data: bytes) -> bytes:
        document = document_of(self.key, user_data)
        report_data = hashlib.sha256(document).digest().ljust(64, b"\0")
        return hcl_report(self.kind, self.make_hardware(report_data), document)


def _first_handle(command: bytes) -> int:
    handle: int = struct.unpack_from(">I", command, 10)[0]
    return handle


def _second_handle(command: bytes) -> int:
    handle: int = struct.unpack_from(">I", command, 14)[0]
    return handle


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
