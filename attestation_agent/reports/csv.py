"""Hygon CSV reports: the request, the repair that makes evidence of an answer, its JSON. Sans-I/O.

The firmware hides most of a report behind a number of its choice, `anonce`, and authenticates the
signing key with the nonce of the request. Both are checked here; the signature is the verifier's.

Source: docs/spec/attesters.md 12.1 (Hygon CSV attestation, structure `csv_attestation_report`).
"""

import hmac
from dataclasses import dataclass
from typing import Final, Self

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.wire import Cursor

PAGE_BYTES: Final = 4096
"""Length of request and answer, padding included."""

REPORT_DATA_BYTES: Final = 64
NONCE_BYTES: Final = 16
REGISTER_BYTES: Final = 32
REGISTERS: Final = 5
"""rtmr0 to rtmr4, SM3."""

EXTENDED_MAGIC: Final = b"ATTESTATION_EXT\0"
EXTENDED_FLAGS: Final = 1

LEGACY_BODY: Final = 0x150
EXTENDED_BODY: Final = 0x490
"""Bytes of the signed part and its signature, before what is said of the signer."""

CERTIFICATE_BYTES: Final = 2084
SERIAL_BYTES: Final = 64
HSK_BYTES: Final = 832

_REPORT_DATA_AT: Final = 0x40
_NONCE_AT: Final = 0x80
_ANONCE_AT: Final = 0xBC
_REGISTERS_AT: Final = 0xD0
_RESERVED_BYTES: Final = 32
_MAC_BYTES: Final = 32
_SM3_BLOCK: Final = 64


def encode_request(report_data: bytes, nonce: bytes, *, is_extended: bool) -> bytes:
    """What the page holds before the call.

    Args:
        report_data: 64 bytes.
        nonce: 16 fresh random bytes.
        is_extended: ask for a report with registers.
    """
    assert (len(report_data), len(nonce)) == (REPORT_DATA_BYTES, NONCE_BYTES)
    request = report_data + nonce + HashAlgorithm.SM3.of(report_data + nonce).value
    if is_extended:
        request += EXTENDED_MAGIC + EXTENDED_FLAGS.to_bytes(4, "little")
    return request.ljust(PAGE_BYTES, b"\0")


def hmac_sm3(key: bytes, data: bytes) -> bytes:
    """HMAC (RFC 2104) with SM3; a key of at most 64 bytes."""
    padded = key.ljust(_SM3_BLOCK, b"\0")
    inner = HashAlgorithm.SM3.of(bytes(byte ^ 0x36 for byte in padded) + data).value
    return HashAlgorithm.SM3.of(bytes(byte ^ 0x5C for byte in padded) + inner).value


def _hidden(data: bytes, anonce: bytes) -> bytes:
    """The bytes with `anonce` over and over; twice gives them back."""
    return bytes(byte ^ anonce[at % len(anonce)] for at, byte in enumerate(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvReport:
    """An answer of the firmware, repaired.

    Attributes:
        is_extended: it has registers.
        content: the 4096 bytes that go into evidence.
        report_data: 64 bytes that it binds.
        registers: rtmr0 to rtmr4, 32 bytes each; none in a legacy report.
        certificate: of the platform endorsement key (PEK), 2084 bytes.
        serial_number: 64 bytes, the chip's.
    """

    is_extended: bool
    content: bytes
    report_data: bytes
    registers: tuple[bytes, ...]
    certificate: bytes
    serial_number: bytes

    @classmethod
    def repair(cls, answer: bytes, nonce: bytes, *, is_extended: bool) -> Self:
        """Check that the answer is to our nonce, and undo what hides the signer.

        Args:
            answer: the page after the call.
            nonce: the 16 bytes of the request.
            is_extended: what was asked for.

        Raises:
            DecodeError: another length, another nonce, or a MAC that does not match.
        """
        if len(answer) != PAGE_BYTES:
            raise DecodeError(f"CSV report has {len(answer)} bytes, expected {PAGE_BYTES}")
        anonce = bytes(4) if is_extended else answer[_ANONCE_AT : _ANONCE_AT + 4]
        found = _hidden(answer[_NONCE_AT : _NONCE_AT + NONCE_BYTES], anonce)
        if not hmac.compare_digest(found, nonce):
            raise DecodeError("CSV report answers another nonce")
        body_length = EXTENDED_BODY if is_extended else LEGACY_BODY
        cursor = Cursor(answer, "CSV report")
        body = cursor.take(body_length)
        hidden_certificate, hidden_serial = cursor.take(CERTIFICATE_BYTES), cursor.take(64)
        reserved, mac = cursor.take(_RESERVED_BYTES), cursor.take(_MAC_BYTES)
        expected = hmac_sm3(nonce, hidden_certificate + hidden_serial + reserved)
        if not hmac.compare_digest(mac, expected):
            raise DecodeError("CSV report: the MAC of its signer does not match")
        certificate = _hidden(hidden_certificate, anonce)
        serial_number = _hidden(hidden_serial, anonce)
        rest = bytes(_RESERVED_BYTES) + mac + cursor.rest()
        return cls(
            is_extended=is_extended,
            content=body + certificate + serial_number + rest,
            report_data=_hidden(body[_REPORT_DATA_AT:_NONCE_AT], anonce),
            registers=_registers(body) if is_extended else (),
            certificate=certificate,
            serial_number=serial_number,
        )

    def evidence(self) -> dict[str, object]:
        """The member `attestation_report` of evidence."""
        magic = EXTENDED_MAGIC if self.is_extended else bytes(len(EXTENDED_MAGIC))
        return {
            "magic": list(magic),
            "flags": EXTENDED_FLAGS if self.is_extended else 0,
            "data": list(self.content),
        }

    @property
    def serial_text(self) -> str:
        """The serial number as Hygon's service takes it: up to its first NUL.

        Raises:
            DecodeError: it is empty, or not letters and digits.
        """
        text = self.serial_number.split(b"\0", 1)[0].decode("ascii", "replace")
        if not (text.isascii() and text.isalnum()):
            raise DecodeError("CSV serial number is not letters and digits")
        return text


def _registers(body: bytes) -> tuple[bytes, ...]:
    cursor = Cursor(body[_REGISTERS_AT:], "CSV registers")
    return tuple(cursor.take(REGISTER_BYTES) for _ in range(REGISTERS))


def _numbers(cursor: Cursor, length: int) -> list[int]:
    return list(cursor.take(length))


def _u32(cursor: Cursor) -> int:
    return cursor.unsigned(4, little=True)


def _point(cursor: Cursor) -> dict[str, object]:
    return {"g": _u32(cursor), "x": _numbers(cursor, 72), "y": _numbers(cursor, 72)}


def _signature(cursor: Cursor) -> dict[str, object]:
    return {"r": _numbers(cursor, 72), "s": _numbers(cursor, 72)}


def certificate_evidence(data: bytes) -> dict[str, object]:
    """A PEK or CEK certificate of 2084 bytes as evidence has it.

    Raises:
        DecodeError: another length.
    """
    cursor = Cursor(data, "CSV certificate")
    version = _u32(cursor)
    body = {
        "firmware": {"major": cursor.unsigned(1), "minor": cursor.unsigned(1)},
        "reserved1": cursor.unsigned(2, little=True),
        "pubkey": {"usage": _u32(cursor), "algo": _u32(cursor), "key": _point(cursor)},
        "uid_size": cursor.unsigned(2, little=True),
        "user_id": _numbers(cursor, 254),
        "sid": _numbers(cursor, 16),
        "reserved2": _numbers(cursor, 608),
    }
    signatures = [
        {
            "usage": _u32(cursor),
            "algo": _u32(cursor),
            "signature": _signature(cursor),
            "_reserved": _numbers(cursor, 368),
        }
        for _ in range(2)
    ]
    cursor.finish()
    return {"body": {"ver": version, "data": body}, "sigs": signatures}


def hsk_evidence(data: bytes) -> dict[str, object]:
    """An HSK certificate of 832 bytes as evidence has it.

    Raises:
        DecodeError: another length.
    """
    cursor = Cursor(data, "HSK certificate")
    preamble = {
        "ver": _u32(cursor),
        "data": {
            "kid": _numbers(cursor, 16),
            "sid": _numbers(cursor, 16),
            "usage": _u32(cursor),
            "reserved": _numbers(cursor, 24),
        },
    }
    body = {
        "preamble": preamble,
        "pubkey": _point(cursor),
        "uid_size": cursor.unsigned(2, little=True),
        "user_id": _numbers(cursor, 254),
        "reserved": _numbers(cursor, 108),
    }
    signature = _signature(cursor)
    reserved = _numbers(cursor, 112)
    cursor.finish()
    return {"body": body, "signature": signature, "_reserved": reserved}


def chain_evidence(data: bytes) -> dict[str, object]:
    """The member `hsk_cek`, from what Hygon's service answers: HSK, then CEK.

    Raises:
        DecodeError: not exactly 832 and 2084 bytes.
    """
    return {"hsk": hsk_evidence(data[:HSK_BYTES]), "cek": certificate_evidence(data[HSK_BYTES:])}
