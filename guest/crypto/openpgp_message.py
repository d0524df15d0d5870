"""A signed OpenPGP message: its three packets, whatever wraps them. Sans-I/O.

Only the form that simple signing uses is read: a one-pass signature, literal data, a signature,
all of it perhaps inside one compressed packet. What is given on is written anew, so that whoever
verifies it sees the packets that were judged here and nothing else.

Source: docs/spec/image-pull.md 9.6; RFC 4880 sections 4.2, 5.2, 5.4, 5.6, 5.9.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from guest.errors import DecodeError
from guest.wire import Cursor

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Most bytes of a message as it is stored."""

MAX_CONTENT: Final = 1024 * 1024
"""Most bytes of what a compressed packet unfolds to, and of literal data."""

MAX_SIGNATURE: Final = 64 * 1024
MAX_PACKETS: Final = 8

SIGNATURE: Final = 2
ONE_PASS: Final = 4
COMPRESSED: Final = 8
LITERAL: Final = 11

BINARY: Final = 0x00
"""The signature type over bytes as they are."""

HASHES: Final = MappingProxyType({8: "SHA-256", 9: "SHA-384", 10: "SHA-512"})
KEY_KINDS: Final = MappingProxyType({1: "RSA", 3: "RSA", 19: "ECDSA", 22: "EdDSA", 27: "Ed25519"})

_WINDOWS: Final = MappingProxyType({1: -15, 2: 15})
"""Compression algorithm (ZIP, ZLIB) to zlib's window bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMessage:
    """One signature over one text.

    Attributes:
        content: the signed bytes.
        issuer: 8-byte key id that the one-pass signature names.
        encoded: the three packets alone, uncompressed, each with its length in front.
    """

    content: bytes
    issuer: bytes
    encoded: bytes

    @classmethod
    def decode(cls, data: bytes) -> "SignedMessage":
        """Parse binary bytes.

        Raises:
            DecodeError: another form, another algorithm than `HASHES` and `KEY_KINDS`, or too
                long.
        """
        if len(data) > MAX_MESSAGE:
            raise DecodeError(f"OpenPGP message has {len(data)} bytes, at most {MAX_MESSAGE}")
        packets = list(_packets(data))
        if len(packets) == 1 and packets[0][0] == COMPRESSED:
            packets = list(_packets(_decompress(packets[0][1])))
        if [tag for tag, _ in packets] != [ONE_PASS, LITERAL, SIGNATURE]:
            raise DecodeError("OpenPGP message is not one signature around literal data")
        (_, one_pass), (_, literal), (_, signature) = packets
        issuer, hash_number, key_kind = _one_pass(one_pass)
        _check_signature(signature, hash_number, key_kind)
        return cls(
            content=_content(literal),
            issuer=issuer,
            encoded=b"".join(_encode(tag, body) for tag, body in packets),
        )


def _encode(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    cursor = Cursor(data, "OpenPGP message")
    for _ in range(MAX_PACKETS):
        if not cursor.remaining:
            return
        header = cursor.unsigned(1)
        if not header & 0x80:
            raise DecodeError("OpenPGP message has no packet where one must begin")
        if header & 0x40:
            tag = header & 0x3F
            yield tag, _new_body(cursor, may_be_partial=tag in (COMPRESSED, LITERAL))
        else:
            yield (header >> 2) & 0x0F, _old_body(cursor, header & 0x03)
    if cursor.remaining:
        raise DecodeError(f"OpenPGP message has more than {MAX_PACKETS} packets")


def _old_body(cursor: Cursor, length_type: int) -> bytes:
    if length_type == 3:  # up to the end
        return cursor.rest()
    return cursor.take(cursor.unsigned(1 << length_type))


def _new_body(cursor: Cursor, *, may_be_partial: bool) -> bytes:
    body = bytearray()
    while True:
        first = cursor.unsigned(1)
        if 224 <= first <= 254:
            if not may_be_partial:
                raise DecodeError("OpenPGP packet has a length in parts where none may be")
            body += cursor.take(1 << (first & 0x1F))
            continue
        if first < 192:
            length = first
        elif first < 224:
            length = ((first - 192) << 8) + cursor.unsigned(1) + 192
        else:
            length = cursor.unsigned(4)
        return bytes(body) + cursor.take(length)


def _decompress(body: bytes) -> bytes:
    if not body or body[0] not in _WINDOWS:
        raise DecodeError("OpenPGP message is compressed in a way that is not supported")
    machine = zlib.decompressobj(_WINDOWS[body[0]])
    try:
        content = machine.decompress(body[1:], MAX_CONTENT + MAX_SIGNATURE)
    except zlib.error as error:
        raise DecodeError("compressed OpenPGP data is damaged") from error
    if not machine.eof:
        raise DecodeError("compressed OpenPGP data is cut off or unfolds to too much")
    if machine.unused_data:
        raise DecodeError("compressed OpenPGP data is followed by other bytes")
    return content


def _one_pass(body: bytes) -> tuple[bytes, int, int]:
    """Issuer, hash algorithm, key algorithm."""
    cursor = Cursor(body, "one-pass signature")
    version, kind, hash_number, key_kind = cursor.take(4)
    issuer = cursor.take(8)
    is_last = cursor.unsigned(1)
    cursor.finish()
    if version != 3 or kind != BINARY or is_last != 1:
        raise DecodeError("one-pass signature is not one of version 3 over binary data")
    return issuer, hash_number, key_kind


def _check_signature(body: bytes, hash_number: int, key_kind: int) -> None:
    if len(body) > MAX_SIGNATURE:
        raise DecodeError(f"OpenPGP signature has {len(body)} bytes")
    version, kind, key, digest = Cursor(body, "OpenPGP signature").take(4)
    if version != 4 or kind != BINARY:
        raise DecodeError("OpenPGP signature is not one of version 4 over binary data")
    if (digest, key) != (hash_number, key_kind):
        raise DecodeError("OpenPGP signature is of another kind than it was announced")
    if digest not in HASHES:
        raise DecodeError(f"OpenPGP signature is over a digest of kind {digest}, not trusted")
    if key not in KEY_KINDS:
        raise DecodeError(f"OpenPGP signature is of the key algorithm {key}, not supported")


def _content(body: bytes) -> bytes:
    """The bytes after format, file name and date, which are not signed."""
    cursor = Cursor(body, "literal data")
    if cursor.take(1) not in (b"b", b"t", b"u"):
        raise DecodeError("literal data is of an unknown format")
    cursor.take(cursor.unsigned(1))
    cursor.take(4)
    content = cursor.rest()
    if len(content) > MAX_CONTENT:
        raise DecodeError(f"literal data has {len(content)} bytes, at most {MAX_CONTENT}")
    return content
