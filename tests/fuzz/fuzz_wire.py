"""Strict text forms have one spelling, and a cursor stays inside its bytes."""

from contextlib import suppress

from guest import wire
from guest.crypto.digest import Digest
from guest.errors import DecodeError

SEEDS = (b"AAEC", b"AA==", b"-_-_", b"00ff", b"sha256:" + b"0" * 64)


def one_input(data: bytes) -> None:
    """Decode each form and write it again."""
    with suppress(DecodeError):
        assert wire.encode_base64(wire.decode_base64(data)).encode() == data
    with suppress(DecodeError):
        assert wire.encode_base64url(wire.decode_base64url(data)).encode() == data
    with suppress(DecodeError):
        assert wire.encode_hex(wire.decode_hex(data)).encode() == data.lower()
    with suppress(DecodeError):
        text = wire.decode_utf8(data)
        assert str(Digest.parse(text)) == text
    cursor = wire.Cursor(data)
    with suppress(DecodeError):
        while cursor.remaining:
            cursor.take(cursor.unsigned(1) + cursor.unsigned(2, little=True) % 7)
    assert cursor.offset + cursor.remaining == len(data)
