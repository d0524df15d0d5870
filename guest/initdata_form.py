"""Init data on its way: base64 of gzip of the document, or that on a block device. Sans-I/O.

The text form is what a pod carries in its annotation (`ANNOTATION`) and a pod VM finds in
`/run/peerpod/initdata`; the device form is what a local hypervisor attaches.

Source: docs/spec/attestation-agent.md 6.2; docs/spec/podvm-image.md 5.5, 12.4 and 18.3; RFC 1952.
"""

import zlib
from typing import Final

from guest.errors import DecodeError
from guest.wire import Cursor, decode_base64, encode_base64

ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"

MAX_UNPACKED: Final = 1024 * 1024
"""Bytes of the longest document that is unpacked."""

MAX_TEXT: Final = 2 * 1024 * 1024
"""Characters of the longest text form that is read, line ends included."""

DEVICE_MAGIC: Final = b"initdata"
SECTOR: Final = 512
"""Bytes to whose multiple a device's content is padded."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_LINE_ENDS: Final = b"\r\n"
_OPERATING_SYSTEM: Final = 9
"""Offset of the header byte that names where it was made; 255 for unknown, wherever that is."""


def pack(content: bytes) -> str:
    """The text form: one line, the same for the same content on every machine with one zlib."""
    return encode_base64(_deflate(content))


def unpack(text: bytes) -> bytes:
    """The document inside a text form.

    Args:
        text: base64, standard and padded; carriage returns and line feeds are passed over.

    Raises:
        DecodeError: another alphabet, no gzip, cut, bytes after it, or longer than
            `MAX_UNPACKED`.
    """
    if len(text) > MAX_TEXT:
        raise DecodeError(f"packed init data is longer than {MAX_TEXT} bytes")
    return _inflate(decode_base64(text.translate(None, _LINE_ENDS), "packed init data"))


def pack_device(content: bytes) -> bytes:
    """The device form: magic, length as eight little-endian bytes, gzip, zeros up to a sector."""
    packed = _deflate(content)
    image = DEVICE_MAGIC + len(packed).to_bytes(8, "little") + packed
    return image + bytes(-len(image) % SECTOR)


def unpack_device(image: bytes) -> bytes:
    """The document on a device; what follows its gzip is padding and not looked at.

    Raises:
        DecodeError: no magic, a length beyond the end, or as `unpack`.
    """
    cursor = Cursor(image, "init data device")
    if cursor.take(len(DEVICE_MAGIC)) != DEVICE_MAGIC:
        raise DecodeError("init data device has no magic")
    return _inflate(cursor.take(cursor.unsigned(8, little=True)))


def _deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    packed = bytearray(packer.compress(content) + packer.flush())
    packed[_OPERATING_SYSTEM] = 255
    return bytes(packed)


def _inflate(packed: bytes) -> bytes:
    """All members of a gzip file, one after the other, never more than the limit."""
    content = bytearray()
    while True:
        reader = zlib.decompressobj(_GZIP)
        try:
            content += reader.decompress(packed, MAX_UNPACKED + 1 - len(content))
        except zlib.error as error:
            raise DecodeError(f"packed init data is not gzip: {error}") from error
        if len(content) > MAX_UNPACKED:
            raise DecodeError(f"init data unpacks to more than {MAX_UNPACKED} bytes")
        if not reader.eof:
            raise DecodeError("packed init data is cut")
        packed = reader.unused_data
        if not packed:
            return bytes(content)
