"""A LUKS2 header as a host would edit it: no encryption, checksums that go with it. Sans-I/O.

Source: LUKS2 on-disk format specification 1.1.
"""

import hashlib
import json
import struct
from typing import Final

BINARY: Final = 4096
"""Bytes of the binary part of each copy."""


def without_encryption(data: bytes) -> bytes:
    """Both copies of a header with `cipher_null-ecb` as the cipher of every segment.

    Args:
        data: the beginning of the device, with both copies.
    """
    (length,) = struct.unpack_from(">Q", data, 8)
    text = data[BINARY:length].rstrip(b"\0")
    document = json.loads(text)
    for segment in document["segments"].values():
        segment["encryption"] = "cipher_null-ecb"
        segment.pop("integrity", None)
    area = json.dumps(document, separators=(",", ":")).encode().ljust(length - BINARY, b"\0")
    copies = b"".join(_sealed(data[start : start + BINARY], area) for start in (0, length))
    return copies + data[len(copies) :]


def _sealed(binary: bytes, area: bytes) -> bytes:
    part = bytearray(binary + area)
    part[448:512] = bytes(64)
    part[448:480] = hashlib.sha256(part).digest()
    return bytes(part)
