"""guest/wire.py: one spelling for each value, and a cursor that never reads past the end."""

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.wire import (
    Cursor,
    decode_base64,
    decode_base64url,
    decode_hex,
    decode_utf8,
    encode_base64,
    encode_base64url,
    encode_hex,
)


@given(st.binary(max_size=200))
def test_what_is_encoded_decodes_and_agrees_with_the_standard_library(data: bytes) -> None:
    assert encode_base64(data) == base64.b64encode(data).decode()
    assert encode_base64url(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert decode_base64(encode_base64(data)) == data
    assert decode_base64url(encode_base64url(data)) == data
    assert decode_hex(encode_hex(data)) == data


@given(st.text(alphabet="ABab01-_+/= \n", max_size=12) | st.text(max_size=12))
def test_any_text_gives_bytes_that_encode_to_it_again_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        assert encode_base64(decode_base64(text)) == text
    with suppress(DecodeError):
        assert encode_base64url(decode_base64url(text)) == text
    with suppress(DecodeError):
        assert encode_hex(decode_hex(text)) == text.lower()


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "AB==", "AA==\n", " AA==", "AA==AA==", "-_=="])
def test_standard_base64_with_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="nonce is not"):
        decode_base64(text, "nonce")


@pytest.mark.parametrize("text", ["A", "AA==", "AB", "A+", "A/", "AA\n", "Ä", "AAAA="])
def test_url_base64_with_padding_stray_bits_or_other_letters_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="tag is not"):
        decode_base64url(text, "tag")


@pytest.mark.parametrize("text", ["a", "0x00", "zz", "00 00", "é0"])
def test_hexadecimal_with_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_hex(text)


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80"])
def test_text_that_is_not_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="name is not UTF-8"):
        decode_utf8(data, "name")


def test_utf8_text_is_read() -> None:
    assert decode_utf8("ä€".encode()) == "ä€"


def test_the_cursor_reads_numbers_in_both_orders_and_knows_where_it_is() -> None:
    cursor = Cursor(bytes(range(1, 9)))
    assert cursor.unsigned(2) == 0x0102
    assert cursor.unsigned(2, little=True) == 0x0403
    assert (cursor.offset, cursor.remaining) == (4, 4)
    assert cursor.take(1) == b"\x05"
    assert cursor.rest() == b"\x06\x07\x08"
    cursor.finish()


@pytest.mark.parametrize("length", [3, -1, 1 << 62])
def test_the_cursor_refuses_to_read_past_the_end(length: int) -> None:
    cursor = Cursor(b"ab", "entry")
    with pytest.raises(DecodeError, match="entry ends at byte 2"):
        cursor.take(length)
    assert cursor.remaining == 2


def test_the_cursor_refuses_what_is_left_over() -> None:
    with pytest.raises(DecodeError, match="1 bytes too many"):
        Cursor(b"a").finish()
