"""What an entry makes on disk, in this process and without a jail."""

import os
import stat
from pathlib import Path

import pytest

from guest.errors import DecodeError, LimitError
from image_pull.layers import unpack as unpack_module
from image_pull.layers.finish import Noted
from support import tarballs as tb
from support.tarballs import file, folder, hard_link, symlink


def run(tmp_path: Path, *parts: bytes, privileged: bool = False) -> tuple[Path, Noted]:
    target = tmp_path / "layer"
    tmp_path.mkdir(exist_ok=True)
    return target, tb.unpack_here(b"".join(parts) + tb.END, target, privileged=privileged)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    place = tmp_path / "canary"
    place.mkdir()
    (place / "file").write_text("mine")
    (place / "directory").mkdir()
    return place


def test_the_tree_is_made_with_modes_and_times(tmp_path: Path) -> None:
    target, noted = run(
        tmp_path,
        folder(b"./", mode=0o750, mtime=5),
        folder(b"a/", mode=0o1777, mtime=7),
        file(b"a/f", b"data", mode=0o4755, mtime=9),
        symlink(b"a/l", b"/nowhere", mtime=11),
        tb.header(b"a/p", flag=b"6", mode=0o620, mtime=13),
    )
    made = tb.snapshot(target)
    assert {name: (oct(row[0]), row[3] // 10**9) for name, row in made.items()} == {
        ".": ("0o40750", 5),
        "a": ("0o41777", 7),
        "a/f": ("0o104755", 9),
        "a/l": ("0o120777", 11),
        "a/p": ("0o10620", 13),
    }
    assert noted.root is not None
    assert (noted.root.mode, noted.root.mtime) == (0o750, 5 * 10**9)


def test_nanoseconds_of_a_pax_time_are_kept(tmp_path: Path) -> None:
    record = (b"mtime", b"1700000000.123456789")
    target, _ = run(tmp_path, tb.pax(record), file(b"f"), tb.pax(record), folder(b"d"))
    assert (target / "f").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert (target / "d").stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_a_time_out_of_range_is_clamped(tmp_path: Path) -> None:
    target, _ = run(tmp_path, tb.pax((b"mtime", b"-5")), file(b"f"))
    assert (target / "f").stat().st_mtime == 0


@pytest.mark.parametrize("privileged", [False, pytest.param(True, marks=pytest.mark.root)])
@pytest.mark.spec("image-pull", 37)
def test_absolute_and_climbing_names_stay_inside(
    tmp_path: Path, canary: Path, privileged: bool
) -> None:
    outside = os.fsencode(canary)
    with tb.unchanged(canary):
        target, _ = run(
            tmp_path,
            file(b"/abs", b"1"),
            file(b"../../../up", b"2", mtime=99, mode=0o777),
            folder(b"/../d/", mtime=99),
            file(b"d/../../e/./f", b"3"),
            folder(b"../canary", mtime=99, mode=0o777, uid=5),
            file(outside + b"/file", b"yours", mtime=99, mode=0o777, uid=5),
            file(b"../canary/file", b"yours", mtime=99, mode=0o777, uid=5),
            privileged=privileged,
        )
    inside = set(tb.snapshot(target))
    assert {"abs", "up", "d", "e/f", "canary/file", str(canary)[1:] + "/file"} <= inside


@pytest.mark.spec("image-pull", 38)
def test_links_as_parents_resolve_inside_the_root(tmp_path: Path, canary: Path) -> None:
    outside = os.fsencode(canary)
    with tb.unchanged(canary):
        target, _ = run(
            tmp_path,
            folder(b"usr/bin/"),
            symlink(b"bin", b"/usr/bin"),
            symlink(b"lib", b"usr/../usr/lib"),
            symlink(b"up", b"../../../../../.."),
            symlink(b"out", outside),
            file(b"bin/sh", b"sh"),
            file(b"lib/so", b"so"),
            file(b"up/root", b"r"),
            file(b"out/file", b"f", mode=0o777),
        )
        assert (target / "usr/bin/sh").read_bytes() == b"sh"
        assert (target / "usr/lib/so").read_bytes() == b"so"
        assert (target / "root").read_bytes() == b"r"
        assert (target / str(canary)[1:] / "file").read_bytes() == b"f"
        with pytest.raises(DecodeError, match="too many symbolic links"):
            run(tmp_path / "canary2", symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x"))
        for link in (outside + b"/file", b"../canary/file", b"/etc/passwd"):
            with pytest.raises(DecodeError):
                run(tmp_path / f"{len(link)}", hard_link(b"h", link))


def test_a_link_of_the_layer_is_replaced_never_written_through(
    tmp_path: Path, canary: Path
) -> None:
    outside = os.fsencode(canary / "file")
    with tb.unchanged(canary):
        target, _ = run(
            tmp_path,
            symlink(b"f", outside),
            file(b"f", b"new"),
            symlink(b"d", os.fsencode(canary)),
            folder(b"d/", mode=0o777),
            symlink(b"p", outside),
            tb.header(b"p", flag=b"6"),
            symlink(b"s", outside),
            symlink(b"s", b"other"),
            file(b"t", b"t"),
            symlink(b"h", outside),
            hard_link(b"h", b"t"),
        )
    assert (target / "f").read_bytes() == b"new"
    assert stat.S_ISDIR((target / "d").lstat().st_mode)
    assert stat.S_ISFIFO((target / "p").lstat().st_mode)
    assert os.readlink(target / "s") == "other"
    assert (target / "h").read_bytes() == b"t"


def test_a_hard_link_to_a_link_is_one_itself(tmp_path: Path, canary: Path) -> None:
    with tb.unchanged(canary):
        target, _ = run(
            tmp_path, symlink(b"s", os.fsencode(canary / "file")), hard_link(b"h", b"s")
        )
    assert os.readlink(target / "h") == str(canary / "file")


def test_a_parent_replaced_by_a_link_leads_elsewhere_from_then_on(tmp_path: Path) -> None:
    target, _ = run(
        tmp_path,
        folder(b"b"),
        folder(b"a"),
        file(b"a/1", b"1"),
        symlink(b"a", b"b"),
        file(b"a/2", b"2"),
    )
    assert sorted(os.listdir(target)) == ["a", "b"]
    assert os.listdir(target / "b") == ["2"]


def test_a_later_entry_replaces_an_earlier_one(tmp_path: Path) -> None:
    target, _ = run(
        tmp_path,
        file(b"f", b"1"),
        file(b"f", b"2"),
        folder(b"d"),
        file(b"d/x/y", b"1"),
        file(b"d", b"file"),
        file(b"e", b"1"),
        folder(b"e"),
        folder(b"k"),
        file(b"k/in", b"1"),
        folder(b"k", mode=0o700, mtime=3),
    )
    assert (target / "f").read_bytes() == b"2"
    assert (target / "d").read_bytes() == b"file"
    assert (target / "e").is_dir()
    assert (target / "k/in").exists()
    assert ((target / "k").stat().st_mode & 0o777, (target / "k").stat().st_mtime) == (0o700, 3)


def test_a_regular_file_as_parent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="not a directory"):
        run(tmp_path, file(b"f", b"1"), file(b"f/x", b"2"))


@pytest.mark.parametrize(
    "parts",
    [
        (file(b"./", flag=b"0"), symlink(b"/", b"x")),
        (tb.pax((b"path", b"a\0b")), file(b"x")),
        (tb.pax((b"path", b"a/" + b"n" * 256)), file(b"x")),
        (tb.pax((b"path", b"a/" * 2100)), file(b"x")),
        (tb.pax((b"path", b"a/" * 1030)), file(b"x")),
        (symlink(b"s", b""),),
        (tb.pax((b"linkpath", b"a\0b")), symlink(b"s", b"x")),
        (hard_link(b"h", b"missing"),),
        (hard_link(b"h", b"h"),),
        (hard_link(b"h", b"/"),),
        (folder(b"d"), hard_link(b"h", b"d")),
        (file(b".wh.", b""),),
        (file(b".wh..", b""),),
        (file(b".wh...", b""),),
        (tb.header(b"c", flag=b"3", major=0, minor=0),),
        (tb.header(b"c", flag=b"3", major=4096, minor=0),),
        (tb.header(b"c", flag=b"4", major=1, minor=1 << 20),),
    ],
)
def test_what_no_layer_may_hold_is_refused(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    with pytest.raises(DecodeError):
        run(tmp_path, *parts)


def test_links_cannot_make_a_path_longer_than_a_record_may_have(tmp_path: Path) -> None:
    parts = [folder(b"d" * 90 + b"/" + b"e" * 9)]
    name = b"d" * 90
    for _ in range(45):
        name = name + b"/" + b"f" * 90
        parts += [tb.pax((b"path", name + b"/")), folder(b"x")]
    with pytest.raises(DecodeError):
        run(tmp_path, *parts)


def test_one_entry_too_many_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_module, "MAX_ENTRIES", 3)
    with pytest.raises(LimitError):
        run(tmp_path, *(file(b"%d" % n) for n in range(4)))


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    target, _ = run(tmp_path, file(b"\xff\xfe \n"), file(b"caf\xc3\xa9"))
    assert sorted(os.listdir(os.fsencode(target))) == [b"caf\xc3\xa9", b"\xff\xfe \n"]


@pytest.mark.parametrize("version", ["gnu", "pax"])
def test_holes_of_a_sparse_file_take_no_space(tmp_path: Path, version: str) -> None:
    size = 1 << 30
    if version == "gnu":
        cells = b"%011o\0%011o\0" % (size - 5, 5)
        extra = [(386, cells), (483, b"\x80" + size.to_bytes(11, "big"))]
        tar = tb.header(b"s", flag=b"S", size=5, magic=b"ustar  \0", extra=extra)
    else:
        tar = tb.pax(
            (b"GNU.sparse.size", b"%d" % size),
            (b"GNU.sparse.numblocks", b"1"),
            (b"GNU.sparse.map", b"%d,5" % (size - 5)),
        ) + tb.header(b"s", size=5)
    target, _ = run(tmp_path, tar, tb.padded(b"12345"))
    status = (target / "s").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (size, True)
    with open(target / "s", "rb") as opened:
        opened.seek(size - 6)
        assert opened.read() == b"\x0012345"


def test_many_deep_directories_need_few_descriptors(tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * 500)
    target, noted = run(
        tmp_path, tb.pax((b"path", deep + b"/f")), file(b"x", b"1"), file(b"d/top", b"2")
    )
    assert len(noted.implicit) == 500
    assert (target / "d/top").exists()


def test_a_hard_link_that_replaces_its_own_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        run(tmp_path, folder(b"d/"), file(b"d/f"), hard_link(b"d", b"d/f"))
