"""What Azure's metadata service is asked about attestation, and what it answers. Sans-I/O.

Source: docs/spec/attesters.md 7.2 and 8.
"""

import json
from typing import Final

import msgspec

from guest import jsonio
from guest.errors import DecodeError
from guest.wire import Cursor, decode_base64, encode_base64, encode_base64url

MAX_ANSWER_BYTES: Final = 1024 * 1024
_TO_STANDARD: Final = str.maketrans("-_", "+/")
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


class _Quote(msgspec.Struct, frozen=True):
    quote: str


class _Certification(msgspec.Struct, frozen=True):
    vcekCert: str  # noqa: N815  # the wire's name


def encode_quote_request(td_report: bytes, *, url_alphabet: bool = False) -> bytes:
    """The body that asks for a quote; some hosts want the URL alphabet, without padding."""
    text = encode_base64url(td_report) if url_alphabet else encode_base64(td_report)
    return json.dumps({"report": text}, separators=(",", ":")).encode()


def decode_quote_answer(body: bytes) -> bytes:
    """The quote, in whichever alphabet.

    Raises:
        DecodeError: not such an answer.
    """
    return _any_base64(jsonio.decode(body, _Quote, max_bytes=MAX_ANSWER_BYTES).quote, "quote")


def decode_certification(body: bytes) -> bytes:
    """The chip's certificate, DER.

    Raises:
        DecodeError: not such an answer, or no certificate in it.
    """
    text = jsonio.decode(body, _Certification, max_bytes=MAX_ANSWER_BYTES).vcekCert
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise DecodeError("vcekCert is not one PEM text labelled CERTIFICATE")
    der = decode_base64("".join(lines[1:-1]), "vcekCert")
    cursor = Cursor(der, "vcekCert")
    if cursor.unsigned(2) != 0x3082:
        raise DecodeError("vcekCert is no certificate")
    cursor.take(cursor.unsigned(2))
    cursor.finish()
    return der


def _any_base64(text: str, what: str) -> bytes:
    bare = "".join(text.split()).rstrip("=").translate(_TO_STANDARD)
    return decode_base64(bare + "=" * (-len(bare) % 4), what)
