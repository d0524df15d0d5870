"""Messages of Intel's quote generation service, and the file that says where it listens. Sans-I/O.

Source: docs/spec/attesters.md 3.5.
"""

import re
import struct
from typing import Final

from attestation_agent.reports.tdx import MAX_QUOTE_BYTES, TD_REPORT_BYTES
from guest.errors import DecodeError
from guest.wire import Cursor

CONFIG_FILE: Final = "/etc/tdx-attest.conf"

HOST_CID: Final = 2
"""Where the service listens on vsock."""

FRAME_HEADER_BYTES: Final = 4
MESSAGE_HEADER_BYTES: Final = 24
MAX_MESSAGE_BYTES: Final = MAX_QUOTE_BYTES
"""Longest response without its frame header, in bytes."""

GET_QUOTE_REQUEST: Final = 0
GET_QUOTE_RESPONSE: Final = 1

ERRORS: Final = {
    0x12001: "unexpected error",
    0x12002: "out of memory",
    0x12003: "invalid parameter",
    0x12004: "version not supported",
    0x12005: "type not supported",
    0x12006: "wrong size",
    0x12007: "wrong code",
}

_HEADER: Final = struct.Struct("<HHIIIII")
_PORT_LINE: Final = re.compile(r"[ \t]*port[ \t]*=[ \t]*([0-9]{1,10})[ \t]*", re.ASCII)


def encode_request(td_report: bytes) -> bytes:
    """The frame that asks for a quote over a TDREPORT of 1024 bytes."""
    assert len(td_report) == TD_REPORT_BYTES
    size = MESSAGE_HEADER_BYTES + len(td_report)
    header = _HEADER.pack(1, 1, GET_QUOTE_REQUEST, size, 0, len(td_report), 0)
    return struct.pack(">I", size) + header + td_report


def decode_length(frame_header: bytes) -> int:
    """How many bytes of message follow a frame header of 4 bytes.

    Raises:
        DecodeError: fewer than a message has, or more than `MAX_MESSAGE_BYTES`.
    """
    cursor = Cursor(frame_header, "frame header of the quoting service")
    length = cursor.unsigned(FRAME_HEADER_BYTES)
    cursor.finish()
    if not MESSAGE_HEADER_BYTES <= length <= MAX_MESSAGE_BYTES:
        raise DecodeError(
            f"message of the quoting service has {length} bytes, "
            f"expected {MESSAGE_HEADER_BYTES} to {MAX_MESSAGE_BYTES}"
        )
    return length


def decode_response(message: bytes) -> bytes:
    """The quote in a response, without its frame header.

    Raises:
        DecodeError: not such a response, or one that says why there is no quote.
    """
    cursor = Cursor(message, "message of the quoting service")
    header = _HEADER.unpack(cursor.take(_HEADER.size))
    major, _minor, kind, size, error, id_size, quote_size = header
    if major != 1:
        raise DecodeError(f"message of the quoting service has version {major}, expected 1")
    if kind != GET_QUOTE_RESPONSE:
        raise DecodeError(f"message of the quoting service has type {kind}, expected 1")
    if error:
        raise DecodeError(f"the quoting service says {error:#x}: {ERRORS.get(error, 'unknown')}")
    if size != len(message):
        raise DecodeError(f"message of the quoting service says {size} bytes, has {len(message)}")
    cursor.take(id_size)
    quote = cursor.take(quote_size)
    cursor.finish()
    if not quote:
        raise DecodeError("the quoting service gave an empty quote")
    return quote


def decode_framed_response(data: bytes) -> bytes:
    """The quote in a response that follows its frame header in one buffer.

    Raises:
        DecodeError: as `decode_length` and `decode_response`, or another length.
    """
    cursor = Cursor(data, "frame of the quoting service")
    message = cursor.take(decode_length(cursor.take(FRAME_HEADER_BYTES)))
    cursor.finish()
    return decode_response(message)


def find_port(text: str) -> int | None:
    """The vsock port that a configuration file names: its first line `port = N` that is one."""
    for line in text.splitlines():
        match = _PORT_LINE.fullmatch(line)
        if match is not None and int(match[1]) <= 65535:
            return int(match[1])
    return None
