"""The tar reader against the standard library's writer, by hand, and cut everywhere."""

import io
import itertools
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.layers.header import Entry, Kind
from image_pull.layers.tar import MAX_META, Data, TarReader
from support import tarballs as tb

Seen = list[tuple[Entry, bytes]]


def read(tar: bytes, cuts: Iterable[int] = ()) -> Seen:
    reader = TarReader()
    seen: list[tuple[Entry, bytearray]] = []
    places = [0, *sorted(min(cut, len(tar)) for cut in cuts), len(tar)]
    for start, end in itertools.pairwise(places):
        for event in reader.feed(tar[start:end]):
            if isinstance(event, Data):
                content = seen[-1][1]
                if len(content) < event.offset:
                    content += bytes(event.offset - len(content))
                content += event.view
            else:
                seen.append((event, bytearray()))
    reader.finish()
    return [(entry, bytes(data).ljust(entry.size, b"\0")) for entry, data in seen]


SAMPLE = (
    tb.folder(b"etc/")
    + tb.pax((b"path", b"etc/" + b"n" * 300), (b"SCHILY.xattr.user.a", b"1\n=\0"))
    + tb.file(b"short", b"x" * 700)
    + tb.symlink(b"l", b"/etc")
    + tb.hard_link(b"h", b"etc/x")
    + tb.file(b"long", b"name/" + b"m" * 200 + b"\0", flag=b"L")
    + tb.file(b"x", b"y")
    + tb.END
)


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=str
)
def test_what_the_standard_library_writes_is_read_as_it_reads_it(form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number in range(40):
            info = tarfile.TarInfo(f"{'d' * (3 * number)}/file{number}")
            info.size, info.mtime, info.mode = 37 * number, 1_700_000_000 + number, 0o4711
            info.uid, info.gid = 1000 + number, 7
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    seen = read(buffer.getvalue())
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        for (entry, data), member in zip(seen, archive, strict=True):
            content = archive.extractfile(member)
            assert content is not None
            assert data == content.read()
            assert entry.name.decode() == member.name
            assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
            assert entry.mtime == int(member.mtime) * 10**9


@given(st.sets(st.integers(0, len(SAMPLE)), max_size=12))
def test_the_events_are_the_same_however_the_bytes_are_cut(cuts: set[int]) -> None:
    assert read(SAMPLE, cuts) == read(SAMPLE)


def test_byte_by_byte_gives_the_same() -> None:
    assert read(SAMPLE, range(len(SAMPLE))) == read(SAMPLE)


@given(st.binary(max_size=2048))
def test_any_bytes_give_events_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        read(data)


@given(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_events_or_a_decode_error(place: int, value: int) -> None:
    changed = bytearray(SAMPLE)
    changed[place] = value
    with suppress(DecodeError):
        read(bytes(changed))


def test_every_truncation_inside_an_entry_is_an_error() -> None:
    tar = tb.file(b"a", b"x" * 600) + tb.pax((b"path", b"b")) + tb.file(b"c", b"y")
    ends = {0, *range(512 + 600, 512 + 1024 + 1), *range(len(tar) - 511, len(tar))}
    for length in range(0, len(tar), 7):
        if length in ends:
            read(tar[:length])
        else:
            with pytest.raises(DecodeError):
                read(tar[:length])


def test_an_archive_may_end_with_the_data_of_its_last_file_as_umoci_writes_it() -> None:
    tar = tb.folder(b"d") + tb.file(b"d/a", b"inserted\n")
    assert read(tar[: 1024 + 9]) == read(tar) == read(tar + tb.END)


def test_a_bad_checksum_is_an_error() -> None:
    tar = bytearray(tb.file(b"a", b"x"))
    tar[0] ^= 1
    with pytest.raises(DecodeError, match="checksum"):
        read(bytes(tar))


def test_a_checksum_of_signed_bytes_is_good() -> None:
    block = bytearray(tb.header(b"\xff\xfe"))
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + block[156:]) + 256
    block[148:156] = b"%06o\0 " % signed
    assert read(bytes(block))[0][0].name == b"\xff\xfe"


def test_what_follows_the_end_marker_is_ignored() -> None:
    assert len(read(tb.file(b"a") + tb.END + tb.file(b"b") + b"garbage")) == 1


def test_one_block_of_zeros_does_not_end_an_archive() -> None:
    with pytest.raises(DecodeError, match="zeros"):
        read(tb.file(b"a") + bytes(512) + tb.file(b"b"))


def test_base_256_numbers_are_read() -> None:
    big = (1 << 33).to_bytes(12, "big")
    size = b"\x80" + (3).to_bytes(11, "big")
    uid = b"\x80" + (3_000_000).to_bytes(7, "big")
    fields = [(108, uid), (124, size), (136, b"\x80" + big[1:])]
    tar = tb.header(b"a", extra=fields) + tb.padded(b"abc")
    entry, data = read(tar)[0]
    assert (entry.uid, entry.mtime, data) == (3_000_000, (1 << 33) * 10**9, b"abc")


def test_a_negative_base_256_time_is_read_and_a_negative_size_refused() -> None:
    assert read(tb.header(b"a", extra=[(136, b"\xff" * 12)]))[0][0].mtime == -(10**9)
    with pytest.raises(DecodeError, match="out of range"):
        read(tb.header(b"a", extra=[(124, b"\xff" * 12)]))


def test_a_ustar_prefix_is_joined() -> None:
    assert read(tb.header(b"b", prefix=b"a"))[0][0].name == b"a/b"


def test_an_old_archives_name_with_a_slash_is_a_directory() -> None:
    tar = tb.header(b"d/", flag=b"\0", magic=bytes(8), size=3) + bytes(512) + tb.file(b"f")
    assert [entry.kind for entry, _ in read(tar)] == [Kind.DIRECTORY, Kind.REGULAR]


def test_an_unknown_type_is_a_regular_file() -> None:
    assert read(tb.file(b"a", b"q", flag=b"A"))[0][0].kind is Kind.REGULAR


def test_pax_records_go_before_the_header() -> None:
    records = (
        (b"path", b"long"),
        (b"size", b"3"),
        (b"uid", b"2097152"),
        (b"gid", b"4294967294"),
        (b"mtime", b"1700000000.123456789"),
        (b"atime", b"1.5"),
        (b"SCHILY.xattr.user.empty", b""),
        (b"SCHILY.xattr.user.raw", b"\x00\xff\n=x"),
    )
    entry, data = read(tb.pax(*records) + tb.header(b"short") + tb.padded(b"abc"))[0]
    assert (entry.name, data, entry.uid, entry.gid) == (b"long", b"abc", 2097152, 4294967294)
    assert (entry.mtime, entry.atime) == (1_700_000_000_123_456_789, 1_500_000_000)
    assert entry.xattrs == {b"user.empty": b"", b"user.raw": b"\x00\xff\n=x"}


def test_a_global_header_is_no_entry() -> None:
    tar = tb.pax((b"comment", b"c"), flag=b"g") + tb.file(b"a", b"1")
    assert [(entry.name, data) for entry, data in read(tar)] == [(b"a", b"1")]


GNU: Final = b"ustar  \0"


@pytest.mark.parametrize(
    "tar",
    [
        tb.header(b"b", prefix=b"a", magic=GNU),
        tb.header(b"b", magic=GNU, extra=[(483, b"00000000005\0")]),
        tb.header(b"b", flag=b"S", extra=[(483, b"00000000000\0")]),
        tb.file(b"dir/", b""),
        tb.file(b"dir/", b"", flag=b"A"),
        *(tb.file(b"a", b"", flag=flag) for flag in (b"D", b"M", b"N", b"V", b"X")),
        *(tb.file(b"a", b"1", flag=flag, link=b"b") for flag in (b"1", b"2", b"5", b"6")),
        tb.pax((b"size", b"5")) + tb.folder(b"d/"),
        tb.pax((b"GNU.sparse.name", b"n")) + tb.folder(b"d/"),
        tb.pax((b"linkpath", b"b")) + tb.folder(b"d/"),
        tb.file(b"L", b"b\0", flag=b"K") + tb.file(b"a"),
        *(tb.pax((key, b"")) + tb.file(b"a") for key in (b"path", b"size", b"mtime", b"uid")),
        *(tb.file(b"L", name, flag=b"L") + tb.file(b"a") for name in (b"n", b"\0", b"", b"a\0b\0")),
        tb.file(b"L", b"n\0", flag=b"L") + tb.pax((b"GNU.sparse.name", b"o")) + tb.file(b"a"),
        tb.pax((b"path", b"n")) + tb.pax((b"comment", b"c"), flag=b"g") + tb.file(b"a"),
        *(
            tb.pax((key, b"7"), flag=b"g") + tb.file(b"a")
            for key in (b"path", b"uid", b"GNU.sparse.size", b"SCHILY.xattr.user.a")
        ),
        tb.pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"4,5")) + tb.file(b"s", b"12345"),
        tb.pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.realsize", b"8"), (b"GNU.sparse.map", b""))
        + tb.file(b"s"),
        tb.pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"0")) + tb.file(b"s"),
        tb.pax(
            (b"GNU.sparse.major", b"1"), (b"GNU.sparse.size", b"0"), (b"GNU.sparse.numblocks", b"0")
        )
        + tb.file(b"s"),
    ],
)
def test_what_two_readers_take_in_two_ways_is_refused(tar: bytes) -> None:
    with pytest.raises(DecodeError):
        read(tar + tb.file(b"next"))


def test_the_last_of_two_records_counts() -> None:
    tar = tb.pax((b"path", b"first"), (b"path", b"last")) + tb.file(b"a")
    assert read(tar)[0][0].name == b"last"


@pytest.mark.parametrize(
    "body",
    [
        b"5 a=",
        b"a=b\n",
        b"99 a=b\n",
        b"6 ab\n\n",
        b"4 =\n\n",
        b"+6 a=b\n",
        b"6 a=b\n\0",
        b"0 a=b\n",
        b"00000000000000000000000000000006 a=b\n",
    ],
)
def test_malformed_pax_records_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        read(tb.file(b"x", body, flag=b"x") + tb.file(b"a"))


@pytest.mark.parametrize(
    "record",
    [(b"uid", b"-1"), (b"uid", b"4294967295"), (b"size", b"1e3"), (b"mtime", b"1.2.3")],
)
def test_numbers_out_of_range_are_refused(record: tuple[bytes, bytes]) -> None:
    with pytest.raises(DecodeError):
        read(tb.pax(record) + tb.file(b"a"))


def test_two_extended_headers_of_a_kind_and_two_long_names_are_refused() -> None:
    for first, second in (
        (tb.pax((b"a", b"b")), tb.pax((b"a", b"b"))),
        (tb.file(b"l", b"n1\0", flag=b"L"), tb.file(b"l", b"n2\0", flag=b"L")),
        (tb.file(b"l", b"n1\0", flag=b"L"), tb.pax((b"path", b"n2"))),
        (tb.file(b"l", b"n1\0", flag=b"K"), tb.pax((b"linkpath", b"n2"))),
    ):
        with pytest.raises(DecodeError):
            read(first + second + tb.file(b"a"))


def test_an_empty_extended_header_says_nothing() -> None:
    tar = tb.pax() + tb.file(b"a", b"1") + tb.pax((b"path", b"long")) + tb.file(b"b")
    assert [entry.name for entry, _ in read(tar)] == [b"a", b"long"]


def test_an_extended_header_beyond_its_limit_is_refused_before_it_is_read() -> None:
    for flag in (b"x", b"g", b"L", b"K"):
        with pytest.raises(DecodeError, match="exceeds"):
            read(tb.header(b"x", flag=flag, size=MAX_META + 1))


def test_an_old_gnu_sparse_file_is_expanded() -> None:
    cells = b"".join(b"%011o\0%011o\0" % pair for pair in ((0, 3), (1000, 2), (2000, 0)))
    real = b"%011o\0" % 2000
    extra = [(386, cells), (483, real)]
    tar = tb.header(b"s", flag=b"S", size=5, magic=b"ustar  \0", extra=extra)
    entry, data = read(tar + tb.padded(b"abcde"))[0]
    assert data == b"abc".ljust(1000, b"\0") + b"de".ljust(1000, b"\0")
    assert entry.segments == ((0, 3), (1000, 2))


def test_an_old_gnu_sparse_file_with_more_cells_is_expanded() -> None:
    places = [(100 * n, 1) for n in range(30)]
    cells = [b"%011o\0%011o\0" % pair for pair in places]
    extra = [(386, b"".join(cells[:4])), (482, b"\1"), (483, b"%011o\0" % 2901)]
    tar = tb.header(b"s", flag=b"S", size=30, magic=b"ustar  \0", extra=extra)
    tar += b"".join(cells[4:25]).ljust(504, b"\0") + b"\1".ljust(8, b"\0")
    tar += b"".join(cells[25:]).ljust(512, b"\0")
    data = read(tar + tb.padded(b"x" * 30) + tb.file(b"next", b"n"))
    assert data[0][1] == (b"x" + bytes(99)) * 29 + b"x"
    assert data[1][1] == b"n"


PIECES = b"abc".ljust(1000, b"\0") + b"de".ljust(1000, b"\0")
SPARSE = {
    "0.0": tb.pax(
        (b"GNU.sparse.size", b"2000"),
        (b"GNU.sparse.numblocks", b"3"),
        (b"GNU.sparse.offset", b"0"),
        (b"GNU.sparse.numbytes", b"3"),
        (b"GNU.sparse.offset", b"1000"),
        (b"GNU.sparse.numbytes", b"2"),
        (b"GNU.sparse.offset", b"2000"),
        (b"GNU.sparse.numbytes", b"0"),
    )
    + tb.file(b"s", b"abcde"),
    "0.1": tb.pax(
        (b"GNU.sparse.size", b"2000"),
        (b"GNU.sparse.numblocks", b"3"),
        (b"GNU.sparse.map", b"0,3,1000,2,2000,0"),
        (b"GNU.sparse.name", b"s"),
    )
    + tb.file(b"GNUSparseFile.0/s", b"abcde"),
    "1.0": tb.pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", b"2000"),
        (b"GNU.sparse.name", b"s"),
    )
    + tb.file(b"GNUSparseFile.0/s", tb.padded(b"3\n0\n3\n1000\n2\n2000\n0\n") + b"abcde"),
}


@pytest.mark.parametrize("version", SPARSE)
def test_a_pax_sparse_file_is_expanded(version: str) -> None:
    seen = read(SPARSE[version] + tb.file(b"next", b"n"), range(0, 3000, 100))
    assert [(entry.name, data) for entry, data in seen] == [(b"s", PIECES), (b"next", b"n")]


def test_a_sparse_map_that_fills_its_blocks_takes_none_of_the_data() -> None:
    zero = b"%020d\n" % 0
    full = b"0000012\n" + zero * 21 + b"%020d\n" % 5 + b"%020d\n" % 2000 + zero
    assert len(full) == 512
    tar = SPARSE["1.0"][: -2 * 512 - 512] + tb.file(b"G/s", full + b"a\n\n\nb") + tb.file(b"n")
    assert [data for _, data in read(tar)] == [b"a\n\n\nb".ljust(2000, b"\0"), b""]


@pytest.mark.parametrize(
    "data", [b"2\n0\n3\n", b"x\n", b"9" * 30, b"1\n5\n3\n", b"2\n3\n3\n0\n2\n"]
)
def test_a_broken_sparse_map_is_refused(data: bytes) -> None:
    prefix = tb.pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"6")
    )
    with pytest.raises(DecodeError):
        read(prefix + tb.file(b"s", tb.padded(data)) + tb.file(b"next"))


def test_a_dangling_extended_header_is_an_error() -> None:
    with pytest.raises(DecodeError, match="truncated"):
        read(tb.pax((b"path", b"a")))
