"""The report that Azure's paravisor keeps in the virtual TPM. Sans-I/O.

A hardware report, which binds a JSON document by its digest, which names the keys of the TPM and
repeats what the guest asked to be bound.

Source: docs/spec/attesters.md 7.1, 7.4 and 8.
"""

import hashlib
from enum import IntEnum
from typing import Final, Self

import msgspec

from guest import jsonio
from guest.errors import DecodeError
from guest.wire import Cursor, decode_base64url, decode_hex

MAGIC: Final = b"HCLA"
HEADER_BYTES: Final = 32
HARDWARE_BYTES: Final = 1184
"""Bytes of the area of the hardware report, whichever TEE's it is."""

TYPE_OFFSET: Final = 1224
"""Where the report's type stands."""

TD_REPORT_BYTES: Final = 1024
MAX_REPORT_BYTES: Final = 16 * 1024
USER_DATA_BYTES: Final = 64
SIGNING_KEY: Final = "HCLAkPub"
"""Name of the TPM's attestation key among the keys."""


class ReportType(IntEnum):
    """Whose hardware report it is."""

    SNP = 2
    TDX = 4


class HashType(IntEnum):
    """By which digest the hardware report binds the document."""

    SHA256 = 1
    SHA384 = 2
    SHA512 = 3


_DIGESTS: Final = {
    HashType.SHA256: hashlib.sha256,
    HashType.SHA384: hashlib.sha384,
    HashType.SHA512: hashlib.sha512,
}
_REPORT_DATA_OFFSETS: Final = {ReportType.SNP: 80, ReportType.TDX: 128}
_TCB_OFFSET: Final = 384
_CHIP_OFFSET: Final = 416


class _Key(msgspec.Struct, frozen=True):
    kid: str = ""
    n: str = ""
    e: str = ""


class _Document(msgspec.Struct, frozen=True):
    keys: tuple[_Key, ...] = ()
    user_data: str = msgspec.field(default="", name="user-data")


class HclReport(msgspec.Struct, frozen=True, kw_only=True):
    """One report.

    Attributes:
        type: whose hardware report it is.
        hash_type: how the document is bound.
        hardware: the hardware report, 1184 bytes (SNP) or 1024 (TDX).
        document: the exact bytes of the JSON.
        user_data: what the guest last asked to be bound, 64 bytes; empty where the document has
            none.
        signing_key: modulus and exponent of the TPM's attestation key; None where the document
            does not name it.
    """

    type: ReportType
    hash_type: HashType
    hardware: bytes
    document: bytes
    user_data: bytes
    signing_key: tuple[int, int] | None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a report; zero bytes may follow.

        Raises:
            DecodeError: too long, cut short, of another kind, or its document is none.
        """
        if len(data) > MAX_REPORT_BYTES:
            raise DecodeError(f"HCL report of {len(data)} bytes, at most {MAX_REPORT_BYTES}")
        cursor = Cursor(data, "HCL report")
        if cursor.take(len(MAGIC)) != MAGIC:
            raise DecodeError("HCL report without its magic")
        cursor.take(HEADER_BYTES - cursor.offset)
        area = cursor.take(HARDWARE_BYTES)
        runtime = cursor.unsigned(4, little=True)
        cursor.take(4)
        kind = _report_type(cursor.unsigned(4, little=True))
        hash_type = _hash_type(cursor.unsigned(4, little=True))
        document = cursor.take(cursor.unsigned(4, little=True))
        if runtime != 20 + len(document):
            raise DecodeError(f"HCL report: runtime data of {runtime} bytes")
        if cursor.rest().strip(b"\0"):
            raise DecodeError("HCL report with something behind it")
        tree = jsonio.decode(document, _Document, max_bytes=MAX_REPORT_BYTES)
        return cls(
            type=kind,
            hash_type=hash_type,
            hardware=area if kind is ReportType.SNP else area[:TD_REPORT_BYTES],
            document=document,
            user_data=_user_data(tree.user_data),
            signing_key=_signing_key(tree.keys),
        )

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the hardware report binds."""
        start = _REPORT_DATA_OFFSETS[self.type]
        return self.hardware[start : start + 64]

    @property
    def binds_document(self) -> bool:
        """Whether the hardware report binds the document; not while the two are being renewed."""
        digest = _DIGESTS[self.hash_type](self.document).digest()
        return self.report_data == digest.ljust(64, b"\0")

    def answers(self, report_data: bytes) -> bool:
        """Whether it was made after the guest asked to bind `report_data`, and holds together."""
        return self.binds_document and self.user_data.startswith(report_data)

    @property
    def certificate_id(self) -> bytes:
        """What decides which certificate a chip's SNP report needs: TCB and chip."""
        tcb = self.hardware[_TCB_OFFSET : _TCB_OFFSET + 8]
        return tcb + self.hardware[_CHIP_OFFSET : _CHIP_OFFSET + 64]


def _report_type(value: int) -> ReportType:
    if value not in list(ReportType):
        raise DecodeError(f"HCL report of type {value}")
    return ReportType(value)


def _hash_type(value: int) -> HashType:
    if value not in list(HashType):
        raise DecodeError(f"HCL report with a digest of type {value}")
    return HashType(value)


def _user_data(text: str) -> bytes:
    value = decode_hex(text, "HCL report: user-data")
    if len(value) > USER_DATA_BYTES:
        raise DecodeError(f"HCL report: user-data of {len(value)} bytes")
    return value


def _signing_key(keys: tuple[_Key, ...]) -> tuple[int, int] | None:
    for key in keys:
        if key.kid == SIGNING_KEY:
            return _number(key.n), _number(key.e)
    return None


def _number(text: str) -> int:
    return int.from_bytes(decode_base64url(text, f"HCL report: {SIGNING_KEY}"), "big")
