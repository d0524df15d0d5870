"""Init data packed for its way, and unpacked at its end."""

import base64
import gzip
import json
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from guest.initdata import InitData
from guest.initdata_form import (
    MAX_TEXT,
    MAX_UNPACKED,
    pack,
    pack_device,
    unpack,
    unpack_device,
)


@pytest.fixture
def packed(vectors: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors / "guest/initdata_packed.json").read_text())[
        "vectors"
    ]
    return found


def text_of(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_the_published_texts_unpack_to_the_published_documents(
    packed: list[dict[str, Any]],
) -> None:
    for vector in packed:
        content = unpack(vector["packed"].encode())
        assert content.decode() == vector["document"]
        assert InitData.parse(content).digest().hex == vector["digest"]


def test_a_device_is_magic_length_and_gzip_and_its_padding_is_not_looked_at(
    packed: list[dict[str, Any]],
) -> None:
    stream = base64.b64decode(packed[0]["packed"])
    image = b"initdata" + len(stream).to_bytes(8, "little") + stream
    assert sha256(image).hexdigest() == packed[0]["device_sha256"]
    content = packed[0]["document"].encode()
    assert unpack_device(image) == content
    assert unpack_device(image + b"\xffpadding") == content
    assert len(pack_device(content)) % 512 == 0
    assert unpack_device(pack_device(content)) == content


def test_the_standard_library_reads_what_is_packed() -> None:
    assert gzip.decompress(base64.b64decode(pack(b"text"), validate=True)) == b"text"
    assert pack(b"text") == pack(b"text")


def test_line_ends_anywhere_and_several_members_are_taken() -> None:
    two = text_of(gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two"))
    assert unpack(two[:7] + b"\r\n" + two[7:] + b"\n") == b"one two"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"H4sI",
        b" " + text_of(gzip.compress(b"x", mtime=0)),
        text_of(gzip.compress(b"x", mtime=0)).rstrip(b"=") + b"*",
        text_of(b"version = 1"),
        text_of(zlib.compress(b"x")),
        text_of(gzip.compress(b"x", mtime=0) + b"\0"),
        text_of(gzip.compress(b"x", mtime=0) + b"more"),
        text_of(gzip.compress(b"x", mtime=0)[:-8] + bytes(8)),
        b"\n" * (MAX_TEXT + 1),
    ],
)
def test_what_is_no_packed_document_is_refused(text: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(text)


def test_every_truncation_is_refused() -> None:
    stream = gzip.compress(b"some text that is long enough")
    for length in range(len(stream)):
        with pytest.raises(DecodeError):
            unpack(text_of(stream[:length]))
    image = pack_device(b"text")
    for length in range(16 + int.from_bytes(image[8:16], "little")):
        with pytest.raises(DecodeError):
            unpack_device(image[:length])


def test_a_bomb_is_given_up_at_the_limit() -> None:
    bomb = gzip.compress(bytes(200 * MAX_UNPACKED), 9)
    with pytest.raises(DecodeError, match="more than"):
        unpack(text_of(bomb))
    assert len(unpack(text_of(gzip.compress(bytes(MAX_UNPACKED))))) == MAX_UNPACKED
    halves = gzip.compress(bytes(MAX_UNPACKED)) + gzip.compress(b"x")
    with pytest.raises(DecodeError, match="more than"):
        unpack(text_of(halves))


@given(st.binary(max_size=2000))
def test_what_is_packed_unpacks_to_the_same(content: bytes) -> None:
    assert unpack(pack(content).encode()) == content
    assert unpack_device(pack_device(content)) == content


@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_decode_error(data: bytes) -> None:
    for read, given_bytes in ((unpack, data), (unpack, text_of(data)), (unpack_device, data)):
        try:
            assert len(read(given_bytes)) <= MAX_UNPACKED
        except DecodeError:
            pass
