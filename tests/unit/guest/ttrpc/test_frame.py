import json
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError, LimitError
from guest.ttrpc.frame import (
    HEADER_LENGTH,
    MAX_DATA_LENGTH,
    FrameHeader,
    FrameType,
    encode_frame,
    oversize_text,
)

FILE: Final = Path(__file__).parents[3] / "vectors" / "ttrpc" / "frames.json"
VECTORS: Final = json.loads(FILE.read_text())["frames"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_header_decodes_and_encodes_as_published(vector: dict[str, str | int]) -> None:
    frame = bytes.fromhex(str(vector["hex"]))
    header = FrameHeader.decode(frame[:HEADER_LENGTH])
    assert header.length == len(frame) - HEADER_LENGTH
    assert (header.stream_id, header.kind, header.flags) == (
        vector["stream_id"],
        vector["kind"],
        vector["flags"],
    )
    assert header.encode() == frame[:HEADER_LENGTH]
    kind = FrameType(header.kind)
    assert encode_frame(header.stream_id, kind, header.flags, frame[HEADER_LENGTH:]) == frame


@given(st.binary(max_size=64))
def test_any_bytes_give_a_header_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        assert FrameHeader.decode(data).encode() == data


@pytest.mark.parametrize("length", [0, 1, 9, 11])
def test_only_ten_bytes_are_a_header(length: int) -> None:
    with pytest.raises(DecodeError, match=f"10 bytes, not {length}"):
        FrameHeader.decode(bytes(length))


def test_the_largest_frame_is_encoded_and_one_byte_more_is_not() -> None:
    assert len(encode_frame(1, FrameType.DATA, 0, bytes(MAX_DATA_LENGTH))) == 10 + 4194304
    with pytest.raises(LimitError) as caught:
        encode_frame(1, FrameType.DATA, 0, bytes(MAX_DATA_LENGTH + 1))
    assert str(caught.value) == oversize_text(4194305)
    assert str(caught.value) == "message length 4194305 exceed maximum message size of 4194304"
