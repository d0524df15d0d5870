"""TDX reports and quotes, as far as an attester needs to read them. Sans-I/O.

Nothing here checks a signature: that is the verifier's part. The attester checks that what leaves
is a TD quote, and binds the report data that it was asked to bind.

Source: docs/spec/attesters.md 3.2 and 3.7 (Intel TDX module ABI, Intel TDX DCAP quote library API).
"""

import hashlib
from typing import Final, Self

import msgspec

from guest.errors import DecodeError
from guest.wire import Cursor

REPORT_DATA_BYTES: Final = 64
REGISTER_BYTES: Final = 48
"""Bytes of a measurement register and of a configuration id: SHA-384."""

REGISTERS: Final = 4
"""RTMR0 to RTMR3."""

TD_REPORT_BYTES: Final = 1024
TD_REPORT_TYPE: Final = 0x81

TEE_TYPE: Final = 0x81
"""TDX, in the header of a quote."""

HEADER_BYTES: Final = 48
BODY_1_0: Final = 584
BODY_1_5: Final = 648
BODY_LENGTHS: Final = {2: BODY_1_0, 3: BODY_1_5}
"""Body type of a version 5 quote to the body's length."""

MAX_QUOTE_BYTES: Final = 1024 * 1024


class TdReport(msgspec.Struct, frozen=True, kw_only=True):
    """A TDREPORT; only this platform's quoting enclave can check its MAC.

    Attributes:
        report_data: 64 bytes that the guest chose.
        mrtd: 48 bytes, measurement of the TD as built.
        config_id: MRCONFIGID, 48 bytes that the host set at launch.
        registers: RTMR0 to RTMR3, 48 bytes each.
        hashes_match: the two embedded hashes are those of the parts they speak for.
    """

    report_data: bytes
    mrtd: bytes
    config_id: bytes
    registers: tuple[bytes, ...]
    hashes_match: bool

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse exactly 1024 bytes.

        Raises:
            DecodeError: another length, or not of a TD.
        """
        if len(data) != TD_REPORT_BYTES:
            raise DecodeError(f"TDREPORT has {len(data)} bytes, expected {TD_REPORT_BYTES}")
        if data[0] != TD_REPORT_TYPE:
            raise DecodeError(f"TDREPORT of type {data[0]:#x}, expected {TD_REPORT_TYPE:#x}")
        tcb_hash = hashlib.sha384(data[256:495]).digest()
        info_hash = hashlib.sha384(data[512:1024]).digest()
        return cls(
            report_data=data[128:192],
            mrtd=data[528:576],
            config_id=data[576:624],
            registers=_registers(data, 720),
            hashes_match=data[32:80] == tcb_hash and data[80:128] == info_hash,
        )


class TdQuote(msgspec.Struct, frozen=True, kw_only=True):
    """A quote over a TD.

    Attributes:
        version: 4 or 5.
        attributes: the TD's, 8 bytes; bit 0 is DEBUG.
        report_data: 64 bytes.
        mrtd: 48 bytes.
        config_id: MRCONFIGID, 48 bytes.
        registers: RTMR0 to RTMR3, 48 bytes each.
        signature_data: what the verifier checks it with: signature, key, certificates.
        padding: zero bytes after it.
    """

    version: int
    attributes: bytes
    report_data: bytes
    mrtd: bytes
    config_id: bytes
    registers: tuple[bytes, ...]
    signature_data: bytes
    padding: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a quote, version 4 or 5, with any number of zero bytes behind it.

        Raises:
            DecodeError: cut short, of another TEE or version, or with other bytes behind it.
        """
        if len(data) > MAX_QUOTE_BYTES:
            raise DecodeError(f"TD quote of {len(data)} bytes, expected at most {MAX_QUOTE_BYTES}")
        cursor = Cursor(data, "TD quote")
        version = _read_header(cursor)
        length = BODY_1_0 if version == 4 else _read_body_length(cursor)
        body = cursor.take(length)
        signature_data = cursor.take(cursor.unsigned(4, little=True))
        padding = cursor.rest()
        if padding.strip(b"\0"):
            raise DecodeError(f"TD quote has {len(padding)} bytes too many, not all zero")
        return cls(
            version=version,
            attributes=body[120:128],
            mrtd=body[136:184],
            config_id=body[184:232],
            registers=_registers(body, 328),
            report_data=body[520:584],
            signature_data=signature_data,
            padding=len(padding),
        )


def _read_header(cursor: Cursor) -> int:
    version = cursor.unsigned(2, little=True)
    if version == 3:
        raise DecodeError("expected TDX quote (v4/v5), got SGX quote (v3)")
    if version not in (4, 5):
        raise DecodeError(f"TD quote of version {version}, expected 4 or 5")
    cursor.take(2)
    tee = cursor.unsigned(4, little=True)
    if tee != TEE_TYPE:
        raise DecodeError(f"quote of TEE type {tee:#x}, expected {TEE_TYPE:#x}")
    cursor.take(HEADER_BYTES - cursor.offset)
    return version


def _read_body_length(cursor: Cursor) -> int:
    kind = cursor.unsigned(2, little=True)
    length = cursor.unsigned(4, little=True)
    if BODY_LENGTHS.get(kind) != length:
        raise DecodeError(f"TD quote body of type {kind} has {length} bytes")
    return length


def _registers(data: bytes, offset: int) -> tuple[bytes, ...]:
    ends = range(offset + REGISTER_BYTES, offset + (REGISTERS + 1) * REGISTER_BYTES, REGISTER_BYTES)
    return tuple(data[end - REGISTER_BYTES : end] for end in ends)
