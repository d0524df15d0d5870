"""Bytes as text and bytes as numbers: strict base64, base64url and hex, and a cursor. Sans-I/O.

What is accepted has exactly one spelling: encoding what was decoded gives the same text again
(for hexadecimal, the same text in lower case).

Source: RFC 4648 sections 3.5, 4, 5 and 8; docs/spec/kbs-protocol.md ("All base64url below is
unpadded"; a decoder rejects padding and other alphabets).
"""

import binascii
from typing import Final

from guest.errors import DecodeError

_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def encode_base64(data: bytes) -> str:
    """Standard alphabet, padded, one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: str | bytes, what: str = "value") -> bytes:
    """Read standard, padded base64; no line ends, no spaces, no stray bits.

    Args:
        text: the encoded text.
        what: names the value in the error.

    Raises:
        DecodeError: any other spelling.
    """
    return _decode(_ascii(text, what), what, "base64")


def encode_base64url(data: bytes) -> str:
    """URL alphabet, no padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode_base64url(text: str | bytes, what: str = "value") -> bytes:
    """Read base64 of the URL alphabet without padding; no stray bits.

    Raises:
        DecodeError: any other spelling.
    """
    encoded = _ascii(text, what)
    if b"=" in encoded or b"+" in encoded or b"/" in encoded:
        raise DecodeError(f"{what} is not unpadded base64url")
    padded = encoded.translate(_TO_STANDARD) + b"=" * (-len(encoded) % 4)
    return _decode(padded, what, "unpadded base64url")


def encode_hex(data: bytes) -> str:
    """Two lower-case digits for each byte."""
    return data.hex()


def decode_hex(text: str | bytes, what: str = "value") -> bytes:
    """Read pairs of hexadecimal digits of either case; no prefix, no spaces.

    Raises:
        DecodeError: any other spelling.
    """
    try:
        return binascii.unhexlify(_ascii(text, what))
    except binascii.Error as error:
        raise DecodeError(f"{what} is not hexadecimal") from error


def decode_utf8(data: bytes, what: str = "value") -> str:
    """Read strict UTF-8: no surrogates, no overlong forms.

    Raises:
        DecodeError: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"{what} is not UTF-8") from error


def _ascii(text: str | bytes, what: str) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as error:
        raise DecodeError(f"{what} is not ASCII") from error


def _decode(encoded: bytes, what: str, form: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(encoded, strict_mode=True)
    except binascii.Error as error:
        raise DecodeError(f"{what} is not {form}") from error
    ending = len(decoded) // 3 * 3
    again = binascii.b2a_base64(decoded[ending:], newline=False)
    if len(encoded) % 4 or encoded[ending // 3 * 4 :] != again:
        raise DecodeError(f"{what} is not {form}")
    return decoded


class Cursor:
    """Reads a byte string from front to end; nothing is read past the end."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str = "value") -> None:
        """Start at the first byte of `data`; `what` names it in errors."""
        self._data = data
        self._at = 0
        self._what = what

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._at

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        """The next `length` bytes.

        Raises:
            DecodeError: fewer are left, or the length is negative.
        """
        if not 0 <= length <= self.remaining:
            raise DecodeError(
                f"{self._what} ends at byte {len(self._data)}, expected {length} more at {self._at}"
            )
        self._at += length
        return self._data[self._at - length : self._at]

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.remaining)

    def unsigned(self, length: int, *, little: bool = False) -> int:
        """An unsigned integer of `length` bytes, big-endian unless `little`.

        Raises:
            DecodeError: too few bytes are left.
        """
        return int.from_bytes(self.take(length), "little" if little else "big")

    def finish(self) -> None:
        """Insist that everything was read.

        Raises:
            DecodeError: bytes are left over.
        """
        if self.remaining:
            raise DecodeError(f"{self._what} has {self.remaining} bytes too many")
