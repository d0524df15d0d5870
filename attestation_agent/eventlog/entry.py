"""Entries of the agent's own event log (AAEL), and the record written ahead of one. Sans-I/O.

Source: docs/spec/attestation-agent.md 7.2 and 7.5.
"""

import struct
from collections.abc import Iterator
from typing import Final, Self

import msgspec

from guest.crypto.digest import HashAlgorithm
from guest.errors import DecodeError
from guest.wire import Cursor, decode_utf8

EVENT_TAG: Final = 6
"""TCG event type `EV_EVENT_TAG`."""

TAG_ID: Final = 0x4141454C
"""`AAEL`."""

MAX_EVENT_BYTES: Final = 64 * 1024
"""Longest event text that is read, in bytes; the journal writes shorter ones."""

ALGORITHM_IDS: Final = {
    HashAlgorithm.SHA256: 0x000B,
    HashAlgorithm.SHA384: 0x000C,
    HashAlgorithm.SHA512: 0x000D,
    HashAlgorithm.SM3: 0x0012,
}

_ALGORITHMS: Final = {number: algorithm for algorithm, number in ALGORITHM_IDS.items()}
_OFFSET_BYTES: Final = 8


def event_text(domain: str, operation: str, content: str) -> bytes:
    """The text of an event; the caller has seen to it that fields do not run together."""
    return f"{domain} {operation} {content}".encode()


def domain_of(text: bytes) -> bytes:
    """What stands before the first space."""
    return text.partition(b" ")[0]


def event_data(text: bytes) -> bytes:
    """What the digest covers: tag, length and text."""
    return struct.pack("<II", TAG_ID, len(text)) + text


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry.

    Attributes:
        register: as the log names it: CCMR on TDX and CSV, PCR on a TPM.
        algorithm: of the digest.
        text: `domain operation content`.
    """

    register: int
    algorithm: HashAlgorithm
    text: bytes

    @property
    def digest(self) -> bytes:
        """What the register is extended with."""
        return self.algorithm.of(event_data(self.text)).value

    def encode(self) -> bytes:
        """The bytes in the log."""
        data = event_data(self.text)
        head = struct.pack("<IIIH", self.register, EVENT_TAG, 1, ALGORITHM_IDS[self.algorithm])
        return head + self.digest + struct.pack("<I", len(data)) + data

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Parse the entry at the cursor.

        Raises:
            DecodeError: it is none of ours, is cut short, or its digest is another event's.
        """
        register = cursor.unsigned(4, little=True)
        kind, count = cursor.unsigned(4, little=True), cursor.unsigned(4, little=True)
        number = cursor.unsigned(2, little=True)
        if kind != EVENT_TAG or count != 1 or number not in _ALGORITHMS:
            raise DecodeError(f"event log entry of type {kind}, {count} digests, {number:#x}")
        algorithm = _ALGORITHMS[number]
        digest = cursor.take(algorithm.length)
        size = cursor.unsigned(4, little=True)
        tag, length = cursor.unsigned(4, little=True), cursor.unsigned(4, little=True)
        if tag != TAG_ID or size != length + 8 or length > MAX_EVENT_BYTES:
            raise DecodeError(f"event log entry of {size} bytes, tag {tag:#x}, text of {length}")
        entry = cls(register=register, algorithm=algorithm, text=cursor.take(length))
        decode_utf8(entry.text, "event")
        if entry.digest != digest:
            raise DecodeError("digest of an event log entry is not its event's")
        return entry


def read_entries(data: bytes) -> Iterator[Entry]:
    """All entries of a log.

    Raises:
        DecodeError: anything else is in it, when it is reached.
    """
    cursor = Cursor(data, "event log")
    while cursor.remaining:
        yield Entry.read(cursor)


class WriteAhead(msgspec.Struct, frozen=True, kw_only=True):
    """What is about to be measured.

    Attributes:
        offset: where in the log the entry goes.
        expected: value of the register once it is extended.
        text: `domain operation content`.
    """

    offset: int
    expected: bytes
    text: bytes

    def encode(self) -> bytes:
        """The bytes of the record."""
        return self.offset.to_bytes(_OFFSET_BYTES, "big") + self.expected + self.text

    @classmethod
    def decode(cls, data: bytes, algorithm: HashAlgorithm) -> Self:
        """Parse a record of a register of `algorithm`.

        Raises:
            DecodeError: `Failed to read wal cache.` and why.
        """
        cursor = Cursor(data, "Failed to read wal cache. The record")
        offset = cursor.unsigned(_OFFSET_BYTES)
        expected = cursor.take(algorithm.length)
        text = cursor.rest()
        if len(text) > MAX_EVENT_BYTES:
            raise DecodeError(f"Failed to read wal cache. The event has {len(text)} bytes")
        decode_utf8(text, "Failed to read wal cache. The event")
        return cls(offset=offset, expected=expected, text=text)
