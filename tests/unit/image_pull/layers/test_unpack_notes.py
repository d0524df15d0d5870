"""What unpacking notes for the puller, and what of attributes reaches the disk."""

import os
import stat
from pathlib import Path

import pytest

from guest.errors import DecodeError
from image_pull.layers.finish import Noted
from support import tarballs as tb
from support.tarballs import file, folder, hard_link, symlink


def run(tmp_path: Path, *parts: bytes, privileged: bool = False) -> tuple[Path, Noted]:
    target = tmp_path / "layer"
    tmp_path.mkdir(exist_ok=True)
    return target, tb.unpack_here(b"".join(parts) + tb.END, target, privileged=privileged)


def whiteouts(noted: Noted) -> tuple[list[bytes], list[bytes]]:
    return sorted(noted.whiteouts), sorted(noted.opaque)


def test_whiteouts_are_noted_and_never_files(tmp_path: Path) -> None:
    target, noted = run(
        tmp_path,
        folder(b"etc"),
        file(b"etc/.wh.passwd"),
        folder(b"var"),
        file(b"var/.wh..wh..opq"),
        file(b".wh..wh.plnk"),
        file(b".wh..wh.aufs"),
        symlink(b"etc/.wh.link", b"x"),
        folder(b"etc/.wh.dir"),
    )
    assert whiteouts(noted) == ([b"etc/dir", b"etc/link", b"etc/passwd"], [b"var"])
    assert set(tb.snapshot(target)) == {".", "etc", "var"}


def test_a_whiteout_hides_nothing_of_its_own_layer(tmp_path: Path) -> None:
    target, noted = run(
        tmp_path,
        file(b"f", b"1"),
        file(b".wh.f"),
        folder(b"d"),
        file(b"d/x"),
        file(b".wh.d"),
        file(b"o/x"),
        file(b"o/.wh..wh..opq"),
    )
    assert whiteouts(noted) == ([], [b"d", b"o"])
    assert {"f", "d/x", "o/x"} <= set(tb.snapshot(target))


def test_what_was_in_a_directory_may_be_hidden_after_it_became_a_file(tmp_path: Path) -> None:
    # umoci lists a file where a directory was, then a whiteout of each thing that was in it
    hiding = (file(b"d/.wh.a"), file(b"d/e/.wh.b"), folder(b"l/.wh.c"), file(b"x"))
    target, noted = run(tmp_path, file(b"d", b"1"), symlink(b"l", b"d"), *hiding)
    assert whiteouts(noted) == ([], [])
    assert set(tb.snapshot(target)) == {".", "d", "l", "x"}
    assert (target / "d").read_bytes() == b"1"


@pytest.mark.parametrize("name", [b"d/x", b"d/.wh..wh..opq", b"d/.wh.", b"d/.wh.a/x"])
def test_a_file_is_no_parent(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        run(tmp_path, file(b"d", b"1"), file(name, b"2"))


def test_what_replaces_a_whiteout_still_hides_what_is_below(tmp_path: Path) -> None:
    _, noted = run(
        tmp_path,
        file(b".wh.d"),
        file(b"d/x", b"1"),
        file(b".wh.e"),
        folder(b"e"),
        file(b".wh.f"),
        file(b"f", b"1"),
        file(b"g", b"1"),
        folder(b"g"),
    )
    assert whiteouts(noted) == ([], [b"d", b"e", b"g"])


def test_inside_an_opaque_directory_there_is_nothing_to_hide(tmp_path: Path) -> None:
    _, noted = run(
        tmp_path,
        file(b"a/.wh.x"),
        file(b"a/b/.wh.y"),
        file(b"a/.wh..wh..opq"),
        file(b"c/.wh.z"),
    )
    assert whiteouts(noted) == ([b"c/z"], [b"a"])


def test_implied_parents_are_noted_in_order(tmp_path: Path) -> None:
    target, noted = run(tmp_path, file(b"a/b/c/f"), folder(b"a/b", mtime=4))
    assert noted.implicit == [b"a", b"a/b/c"]
    made = (target / "a").stat()
    assert (made.st_mode & 0o7777, made.st_mtime) == (0o755, 0)


def test_devices_are_noted_with_their_links(tmp_path: Path) -> None:
    target, noted = run(
        tmp_path,
        tb.header(b"dev/null", flag=b"3", major=1, minor=3, mode=0o666, uid=1, mtime=5),
        hard_link(b"dev/zilch", b"dev/null"),
        file(b"was", b"file"),
        tb.header(b"was", flag=b"4", major=8, minor=1),
        tb.header(b"gone", flag=b"4", major=8, minor=2),
        hard_link(b"left", b"gone"),
        hard_link(b"left2", b"left"),
        file(b"gone", b"file"),
    )
    found = {d.path: (stat.S_IFMT(d.mode), d.major, d.minor, d.link_to) for d in noted.devices}
    assert found == {
        b"dev/null": (stat.S_IFCHR, 1, 3, b""),
        b"dev/zilch": (stat.S_IFCHR, 1, 3, b"dev/null"),
        b"was": (stat.S_IFBLK, 8, 1, b""),
        b"left": (stat.S_IFBLK, 8, 2, b""),
        b"left2": (stat.S_IFBLK, 8, 2, b"left"),
    }
    assert set(tb.snapshot(target)) == {".", "dev", "gone"}


def test_without_privilege_what_the_disk_cannot_take_is_kept(tmp_path: Path) -> None:
    _, noted = run(
        tmp_path,
        file(b"mine", mode=0o644),
        file(b"theirs", mode=0o4000, uid=7, gid=8),
        hard_link(b"again", b"theirs"),
        folder(b"shut", mode=0o000),
        file(b"shut/in", b"1"),
        symlink(b"s", b"x", uid=3),
        file(b"replaced", uid=9),
        file(b"replaced"),
    )
    found = {kept.path: (kept.uid, kept.gid, kept.mode) for kept in noted.kept}
    assert found == {
        b"theirs": (7, 8, 0o4000),
        b"again": (7, 8, 0o4000),
        b"shut": (0, 0, 0),
        b"s": (3, 0, 0o777),
    }


def test_attributes_that_a_layer_may_not_set_are_skipped(tmp_path: Path) -> None:
    names = (b"trusted.overlay.opaque", b"user.overlay.redirect", b"security.selinux", b"")
    records = [(b"SCHILY.xattr." + name, b"y") for name in names]
    target, noted = run(tmp_path, tb.pax(*records), folder(b"d"), tb.pax(*records), file(b"f"))
    assert os.listxattr(target / "d") == os.listxattr(target / "f") == []
    assert noted.opaque == []
    assert noted.kept == []


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.mark.root
@pytest.mark.spec("image-pull", 35)
def test_setuid_bits_and_capabilities_survive(tmp_path: Path) -> None:
    target, _ = run(
        tmp_path,
        tb.pax((b"SCHILY.xattr.security.capability", CAPABILITY)),
        file(b"ping", b"x", mode=0o6755, uid=4, gid=5),
        file(b"su", b"x", mode=0o4755),
        hard_link(b"su2", b"su", mode=0o755, uid=9),
        privileged=True,
    )
    status = (target / "ping").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o6755, 4, 5)
    assert os.getxattr(target / "ping", "security.capability") == CAPABILITY
    pair = [(target / name).stat() for name in ("su", "su2")]
    assert {(s.st_mode & 0o7777, s.st_ino, s.st_uid) for s in pair} == {(0o4755, pair[0].st_ino, 0)}


def test_a_capability_that_cannot_be_set_is_kept(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root can set it")
    _, noted = run(
        tmp_path, tb.pax((b"SCHILY.xattr.security.capability", CAPABILITY)), file(b"ping")
    )
    assert noted.kept[0].xattrs == {b"security.capability": CAPABILITY}


@pytest.mark.root
def test_binary_and_empty_xattrs_are_set_as_they_are(tmp_path: Path) -> None:
    records = ((b"SCHILY.xattr.user.raw", b"\0\xff\n="), (b"SCHILY.xattr.user.empty", b""))
    target, _ = run(tmp_path, tb.pax(*records), file(b"f"), tb.pax(*records), folder(b"d"))
    for name in ("f", "d"):
        assert os.getxattr(target / name, "user.raw") == b"\0\xff\n="
        assert os.getxattr(target / name, "user.empty") == b""


def sparse(version: bytes, content: bytes) -> bytes:
    """One file of 2000 bytes in each PAX form."""
    name = b"sparse" + version
    if version == b"1.0":
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        records += [(b"GNU.sparse.realsize", b"2000"), (b"GNU.sparse.name", name)]
        return tb.pax(*records) + file(b"s", tb.padded(b"3\n0\n3\n1000\n2\n2000\n0\n") + content)
    if version == b"0.1":
        places = [(b"GNU.sparse.map", b"0,3,1000,2,2000,0"), (b"GNU.sparse.name", name)]
    else:
        numbers = (b"0", b"3", b"1000", b"2", b"2000", b"0")
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes") * 3
        places = [*zip(keys, numbers, strict=True)]
    sizes = ((b"GNU.sparse.size", b"2000"), (b"GNU.sparse.numblocks", b"3"))
    return tb.pax(*sizes, *places) + file(name, content)


@pytest.mark.root
@pytest.mark.spec("image-pull", 41)
def test_everything_that_pax_can_say_reaches_the_disk(tmp_path: Path) -> None:
    name = b"d/" + b"n" * 200
    records = (
        (b"path", name),
        (b"mtime", b"1700000000.123456789"),
        (b"uid", b"2097153"),
        (b"SCHILY.xattr.user.empty", b""),
        (b"SCHILY.xattr.user.raw", b"\0\xff\n="),
    )
    versions = (b"0.0", b"0.1", b"1.0")
    target, _ = run(
        tmp_path,
        tb.pax((b"comment", b"of an archiver"), flag=b"g"),
        tb.pax(*records),
        file(b"short", b"1"),
        *(sparse(version, b"abcde") for version in versions),
        privileged=True,
    )
    made = target / os.fsdecode(name)
    status = made.stat()
    assert (status.st_mtime_ns, status.st_uid) == (1_700_000_000_123_456_789, 2097153)
    assert os.getxattr(made, "user.empty") == b""
    assert os.getxattr(made, "user.raw") == b"\0\xff\n="
    for version in versions:
        content = (target / f"sparse{version.decode()}").read_bytes()
        assert content == b"abc".ljust(1000, b"\0") + b"de".ljust(1000, b"\0")
    assert len(os.listdir(target)) == 4
