"""Headers that most archives have, read the short way, are what the long way makes of them."""

import itertools
from collections.abc import Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.layers.header import Entry
from image_pull.layers.tar import TarReader
from support import tarballs as tb
from support.tar_long_way import the_long_way

HEADERS: Final = (
    tb.header(b"a", size=7),
    tb.header(b"d/", flag=b"5", mode=0o755),
    tb.header(b"n" * 99, prefix=b"p" * 154, mtime=1_700_000_000, uid=65534),
    tb.header(b"g", magic=b"ustar  \0", extra=[(345, b"14000000000\0" * 2)]),
    tb.header(b"l", flag=b"2", link=b"to"),
    tb.header(b"old", flag=b"\0", magic=bytes(8)),
    tb.header(b"x", flag=b"x", size=9),
)


def outcome(tar: bytes) -> list[object]:
    """The events, and the error that ended them."""
    reader, seen = TarReader(), list[object]()
    try:
        seen += [
            event if isinstance(event, Entry) else (event.offset, bytes(event.view))
            for event in reader.feed(tar)
        ]
        reader.finish()
    except DecodeError as error:
        seen.append(str(error))
    return seen


def verify_short_way(header: bytes, changes: Iterable[tuple[int, int]], sums: bool) -> None:
    """The short way leads where the long one does; with `sums` the checksum fits the changes."""
    block = bytearray(header)
    for place, value in changes:
        block[place] = value
    if sums:
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    tar = bytes(block) + tb.padded(b"7 bytes") + tb.pax((b"path", b"b")) + bytes(block) + tb.END
    short = outcome(tar)
    with the_long_way():
        assert outcome(tar) == short


@pytest.mark.parametrize("header", HEADERS)
def test_the_short_way_through_a_header_with_one_other_byte(header: bytes) -> None:
    for place, value in itertools.product(range(512), b"\0 +-/19_\xff"):
        for sums in (False, True):
            verify_short_way(header, [(place, value)], sums)


@given(
    st.sampled_from(HEADERS),
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_the_short_way_through_a_header_leads_where_the_long_one_does(
    header: bytes, changes: list[tuple[int, int]], sums: bool
) -> None:
    verify_short_way(header, changes, sums)
