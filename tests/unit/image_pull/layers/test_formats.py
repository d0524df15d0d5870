"""Records, jobs, rules and media types: what they take and what they refuse."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import DecodeError
from image_pull.layers import jobs, rules
from image_pull.layers.jobs import FRAME, Exit, FrameKind, FrameReader, Hello, Job, Kill
from image_pull.layers.pack import Value, pack
from image_pull.layers.record import Device, Jail, Kept, LayerRecord, RootEntry
from image_pull.layers.rules import Whiteout

RECORD = LayerRecord(
    diff_id="sha256:" + "0" * 64,
    entries=3,
    tar_bytes=10,
    jail=Jail.FULL,
    privileged=True,
    whiteouts=(b"a/b", b"\xff"),
    opaque=(b"", b"d"),
    implicit=(b"x", b"x/y"),
    devices=(Device(path=b"n", mode=0o20666, major=1, minor=3, xattrs={b"user.a": b"\0"}),),
    kept=(Kept(path=b"", uid=1, xattrs={b"security.capability": b"\1"}),),
    root=RootEntry(mode=0o700),
)


def test_a_record_comes_back() -> None:
    assert LayerRecord.decode(RECORD.encode()) == RECORD


@pytest.mark.parametrize("path", [b"/a", b"a/", b"a//b", b".", b"a/..", b"", b"a\0", b"n" * 256])
def test_a_record_with_a_path_that_is_not_plain_is_refused(path: bytes) -> None:
    for changes in (
        {"whiteouts": (path,)},
        {"implicit": (path,)},
        {"devices": (Device(path=path, mode=0, major=0, minor=1),)},
        {"devices": (Device(path=b"a", link_to=path or b"/", mode=0, major=0, minor=1),)},
        {"opaque": (path or b"/",)},
        {"kept": (Kept(path=path or b"/"),)},
    ):
        with pytest.raises(DecodeError):
            LayerRecord.decode(RECORD._replace(**changes).encode())


@given(st.binary(max_size=300))
def test_any_bytes_give_a_record_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        LayerRecord.decode(data)
    for decode in (jobs.decode_request, jobs.decode_notice, jobs.decode_failure):
        with suppress(DecodeError):
            decode(data)
    with suppress(DecodeError):
        FrameReader().feed(data)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.text()
        | st.binary()
        | st.dictionaries(st.binary(), st.binary()),
        st.lists,
        max_leaves=20,
    )
)
def test_what_is_packed_is_what_the_library_reads(value: Value) -> None:
    assert msgspec.msgpack.decode(pack(value)) == value


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_a_number_that_does_not_fit_is_not_packed(number: int) -> None:
    with pytest.raises(ValueError, match="no form for"):
        pack(number)


@pytest.mark.parametrize(
    "request_",
    [
        Job(number=1, compression="gzip", algorithm="sha512", max_bytes=1 << 50, privileged=True),
        Job(number=7, compression="none", algorithm="sha256", max_bytes=1, privileged=False),
        Kill(number=3),
    ],
)
def test_a_request_comes_back(request_: Job | Kill) -> None:
    assert jobs.decode_request(jobs.encode(request_)) == request_


@pytest.mark.parametrize(
    "notice", [Hello(jail=Jail.FULL, namespaces=("net",)), Exit(number=1, status=-9, why="w")]
)
def test_a_notice_comes_back(notice: Hello | Exit) -> None:
    assert jobs.decode_notice(jobs.encode(notice)) == notice


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"kill", b"kill -1", b"kill 1 2", b"kill " + b"1" * 21, b"job 1 gzip sha256 1 2"),
        *(b"job 1 gz/p sha256 1 1", b"job 1  sha256 1 1", b"job \xb2 gzip sha256 1 1"),
    ],
)
def test_words_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        jobs.decode_request(data)


@given(st.lists(st.integers(0, 30)))
def test_frames_are_the_same_however_they_are_cut(places: list[int]) -> None:
    data = FRAME.pack(FrameKind.PROGRESS, 0) + FRAME.pack(FrameKind.REPORT, 9) + b"a" * 9
    ends = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    reader = FrameReader()
    found = []
    for number, start in enumerate(ends[:-1]):
        found += reader.feed(data[start : ends[number + 1]])
    assert found == [(FrameKind.PROGRESS, b""), (FrameKind.REPORT, b"a" * 9)]


@pytest.mark.parametrize(
    "data", [FRAME.pack(9, 0), FRAME.pack(3, 1 << 20), FRAME.pack(2, (1 << 24) + 1)]
)
def test_a_frame_that_no_worker_sends_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        FrameReader().feed(data)


def test_a_failure_with_unprintable_text_is_refused() -> None:
    failure = jobs.Failure(kind=jobs.FailureKind.INPUT, text="a\x1b[2J")
    with pytest.raises(DecodeError):
        jobs.decode_failure(jobs.encode(failure))


@given(st.binary(max_size=200))
def test_a_cleaned_name_never_climbs(name: bytes) -> None:
    with suppress(DecodeError):
        parts = rules.clean_name(name)
        assert not {b"", b".", b".."} & set(parts)
        assert b"/" not in b"".join(parts)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        (b"wh.x", None),
        (b".wh.x", Whiteout.HIDE),
        (b".wh..x", Whiteout.HIDE),
        (b".wh..wh..opq", Whiteout.OPAQUE),
        (b".wh..wh..opqx", Whiteout.IGNORED),
        (b".wh..wh.plnk", Whiteout.IGNORED),
    ],
)
def test_whiteout_names_mean_what_the_specification_says(
    name: bytes, meaning: Whiteout | None
) -> None:
    assert rules.find_whiteout(name) is meaning
