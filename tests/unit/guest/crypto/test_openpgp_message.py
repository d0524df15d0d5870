"""Signed OpenPGP messages: which form is read."""

import base64
import json
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.crypto.openpgp_message import MAX_CONTENT, SignedMessage
from guest.errors import DecodeError

ISSUER = bytes(range(8))


def packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def one_pass(
    version: int = 3, kind: int = 0, digest: int = 8, key: int = 1, last: int = 1
) -> bytes:
    return packet(4, bytes([version, kind, digest, key]) + ISSUER + bytes([last]))


def literal(content: bytes = b"text", form: bytes = b"b") -> bytes:
    return packet(11, form + b"\x01n" + bytes(4) + content)


def signature(version: int = 4, kind: int = 0, digest: int = 8, key: int = 1) -> bytes:
    return packet(2, bytes([version, kind, key, digest]) + b"rest")


def raw_deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(data) + machine.flush()


WHOLE = one_pass() + literal() + signature()
GOOD = {
    "plain": WHOLE,
    "zip": packet(8, b"\x01" + raw_deflate(WHOLE)),
    "zlib": packet(8, b"\x02" + zlib.compress(WHOLE)),
    "old length to the end": b"\xa3\x01" + raw_deflate(WHOLE),
    "old two-byte length": one_pass() + b"\xad\x00\x0bb\x01n" + bytes(4) + b"text" + signature(),
    "parts": one_pass() + b"\xcb\xe1b\x01\xe0n\x08" + bytes(4) + b"text" + signature(),
    "short length": one_pass() + b"\xcb\x0bb\x01n" + bytes(4) + b"text" + signature(),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_framing_of_one_signature_gives_the_same_message(name: str) -> None:
    message = SignedMessage.decode(GOOD[name])
    assert message.content == b"text"
    assert message.issuer == ISSUER
    assert message.encoded == WHOLE
    assert SignedMessage.decode(message.encoded) == message


BAD = {
    "nothing": b"",
    "detached": signature(),
    "two signatures": one_pass(last=0) + one_pass() + literal() + signature() + signature(),
    "no one-pass": literal() + signature(),
    "two texts": one_pass() + literal() + literal() + signature(),
    "trailing packet": WHOLE + packet(13, b"user"),
    "trailing byte": WHOLE + b"\0",
    "cut": WHOLE[:-1],
    "armor": b"-----BEGIN PGP MESSAGE-----",
    "one-pass version": one_pass(version=6) + literal() + signature(),
    "text signature": one_pass(kind=1) + literal() + signature(kind=1),
    "nested": one_pass(last=0) + literal() + signature(),
    "version 3 signature": one_pass() + literal() + signature(version=3),
    "announced otherwise": one_pass() + literal() + signature(digest=10),
    "another key kind": one_pass(key=22) + literal() + signature(),
    "sha1": one_pass(digest=2) + literal() + signature(digest=2),
    "md5": one_pass(digest=1) + literal() + signature(digest=1),
    "dsa": one_pass(key=17) + literal() + signature(key=17),
    "literal form": one_pass() + literal(form=b"m") + signature(),
    "too long": one_pass() + literal(bytes(MAX_CONTENT + 1)) + signature(),
    "bomb": packet(8, b"\x02" + zlib.compress(bytes(100_000_000))),
    "bzip2": packet(8, b"\x03x"),
    "not compressed": packet(8, b"\x00" + WHOLE),
    "twice compressed": packet(
        8, b"\x02" + zlib.compress(packet(8, b"\x02" + zlib.compress(WHOLE)))
    ),
    "compressed tail": packet(8, b"\x02" + zlib.compress(WHOLE) + b"x"),
    "compressed cut": packet(8, b"\x02" + zlib.compress(WHOLE)[:-6]),
    "after compressed": packet(8, b"\x02" + zlib.compress(WHOLE)) + WHOLE,
    "parts of a signature": one_pass() + literal() + b"\xc2\xe1\x04\x00\x03\x01\x08",
    "many packets": packet(10, b"PGP") * 9,
}


@pytest.mark.parametrize("name", BAD)
def test_another_form_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        SignedMessage.decode(BAD[name])


def test_the_specifications_message_holds_the_specifications_payload(vectors: Path) -> None:
    vector = json.loads((vectors / "image_pull" / "signatures.json").read_text())["simple"]
    message = SignedMessage.decode(base64.b64decode(vector["signature"]))
    assert json.loads(message.content)["critical"]["type"] == "atomic container signature"
    assert vector["fingerprint"].endswith(message.issuer.hex())


@given(st.binary(max_size=200))
def test_any_content_goes_through(content: bytes) -> None:
    message = SignedMessage.decode(one_pass() + literal(content) + signature())
    assert message.content == content


@given(st.binary(max_size=80))
def test_any_bytes_give_a_message_or_a_decode_error(data: bytes) -> None:
    for start in (b"", WHOLE[:20], b"\xa3\x01"):
        with suppress(DecodeError):
            SignedMessage.decode(start + data)
