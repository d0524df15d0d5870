"""The ttRPC frame: header, types, flags; encode and decode. Sans-I/O.

Source: docs/spec/ttrpc.md 2.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final, Self

import msgspec

from guest.errors import DecodeError, LimitError

HEADER_LENGTH: Final = 10
"""Bytes of a header."""

MAX_DATA_LENGTH: Final = 4 * 1024 * 1024
"""Most data in one frame, in bytes; a longer one is skipped and its stream gets an error."""

FRAMING_LOST_LENGTH: Final = 16 * 1024 * 1024
"""From this length on the first byte is not zero: the bytes are no frames, or no longer."""

MAX_STREAM_ID: Final = 0xFFFF_FFFF
"""Highest stream id."""

_HEADER: Final = struct.Struct(">IIBB")


class FrameType(IntEnum):
    """What a frame is; other values are reserved."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flags(IntFlag):
    """Flags of Request and Data frames; those of a Response mean nothing."""

    NONE = 0
    REMOTE_CLOSED = 1
    """The sender sends no more on this stream."""
    REMOTE_OPEN = 2
    """Data frames of the client follow this Request."""
    NO_DATA = 4
    """There is no message inside."""


def oversize_text(length: int) -> str:
    """What both sides say of a message that is longer than a frame may be."""
    return f"message length {length} exceed maximum message size of {MAX_DATA_LENGTH}"


class FrameHeader(msgspec.Struct, frozen=True, kw_only=True):
    """One header.

    Attributes:
        length: bytes of data that follow; more than `MAX_DATA_LENGTH` still decodes.
        stream_id: odd for a stream that a client opened.
        kind: a `FrameType`, or a reserved value.
        flags: `Flags`, and bits that nobody defined.
    """

    length: int
    stream_id: int
    kind: int
    flags: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse ten bytes; the connection judges length, stream and type.

        Raises:
            DecodeError: not exactly ten bytes.
        """
        if len(data) != HEADER_LENGTH:
            raise DecodeError(f"a frame header has {HEADER_LENGTH} bytes, not {len(data)}")
        length, stream_id, kind, flags = _HEADER.unpack(data)
        return cls(length=length, stream_id=stream_id, kind=kind, flags=flags)

    def encode(self) -> bytes:
        """Ten bytes; the values are in range, or the caller has a bug."""
        return _HEADER.pack(self.length, self.stream_id, self.kind, self.flags)


def encode_frame(stream_id: int, kind: FrameType, flags: int, data: bytes) -> bytes:
    """Header and data in one piece, for one write.

    Raises:
        LimitError: more than `MAX_DATA_LENGTH` bytes of data.
    """
    if len(data) > MAX_DATA_LENGTH:
        raise LimitError(oversize_text(len(data)))
    return _HEADER.pack(len(data), stream_id, kind, flags) + data
