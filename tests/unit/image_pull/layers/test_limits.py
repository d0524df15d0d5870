"""Every limit on a layer: what is at it passes, one more is refused and named."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.errors import DecodeError, GuestError, LimitError
from image_pull.layers import pipeline as pipeline_module
from image_pull.layers import rules
from image_pull.layers import unpack as unpack_module
from image_pull.layers.header import Entry, Kind
from image_pull.layers.record import MAX_COMPONENT, MAX_DEPTH, MAX_PATH
from image_pull.layers.remove import remove_tree
from image_pull.layers.rules import MAX_XATTR, clean_name, verify_xattrs
from image_pull.layers.tar import MAX_META, TarReader
from support import tarballs as tb
from support.tarballs import file, folder, pipeline, symlink, unpack

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Emptied at the end: `shutil` and pytest cannot remove what is as deep as a layer may be."""
    yield tmp_path
    for each in tmp_path.iterdir():
        remove_tree(each)


def run(tmp_path: Path, *parts: bytes) -> None:
    tmp_path.mkdir(exist_ok=True)
    tb.unpack_here(b"".join(parts) + tb.END, tmp_path / "layer", privileged=False)


def named(path: bytes) -> bytes:
    return tb.pax((b"path", path)) + file(b"short")


def long_path(length: int) -> bytes:
    """A path of exactly so many bytes, of components that may be."""
    parts = []
    while length > 0:
        size = min(100, length)
        if length - size == 1:
            size -= 1
        parts.append(b"p" * size)
        length -= size + 1
    return b"/".join(parts)


def test_a_path_and_one_byte_more() -> None:
    assert len(long_path(MAX_PATH)) == MAX_PATH
    assert b"/".join(clean_name(long_path(MAX_PATH))) == long_path(MAX_PATH)
    with pytest.raises(DecodeError, match="Illegal entry name"):
        clean_name(long_path(MAX_PATH + 1))


def test_a_component_and_one_byte_more(tmp_path: Path) -> None:
    run(tmp_path, named(b"c" * MAX_COMPONENT))
    assert os.listdir(tmp_path / "layer") == ["c" * MAX_COMPONENT]
    with pytest.raises(DecodeError, match="Illegal entry name"):
        run(tmp_path / "more", named(b"c" * (MAX_COMPONENT + 1)))


def test_a_depth_and_one_more(tmp_path: Path) -> None:
    run(tmp_path, named(b"/".join([b"d"] * MAX_DEPTH)))
    with pytest.raises(DecodeError, match="Illegal entry name"):
        run(tmp_path / "more", named(b"/".join([b"d"] * (MAX_DEPTH + 1))))


def test_directories_through_links_are_as_deep_as_others_and_no_deeper(tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * (MAX_DEPTH - 1))
    parts = [tb.pax((b"path", deep + b"/")), folder(b"x")]
    link = [tb.pax((b"linkpath", b"/" + deep)), symlink(b"l", b"x")]
    run(tmp_path, *parts, *link, folder(b"l/last/"))
    with pytest.raises(DecodeError, match="too deep"):
        run(tmp_path / "more", *parts, *link, folder(b"l/last/"), folder(b"l/last/more/"))


def test_a_link_s_target_and_one_byte_more(tmp_path: Path) -> None:
    def link(length: int) -> bytes:
        return tb.pax((b"linkpath", long_path(length))) + symlink(b"l", b"x")

    run(tmp_path, link(MAX_PATH - 1))
    with pytest.raises(DecodeError, match="no possible target"):
        run(tmp_path / "more", link(MAX_PATH))


def test_links_that_are_followed_and_one_more(tmp_path: Path) -> None:
    def chain(count: int) -> list[bytes]:
        links = [symlink(b"l%d" % n, b"l%d" % (n + 1)) for n in range(count - 1)]
        return [folder(b"end/"), *links, symlink(b"l%d" % (count - 1), b"end"), file(b"l0/f")]

    run(tmp_path, *chain(rules.MAX_LINKS))
    assert (tmp_path / "layer" / "end" / "f").exists()
    with pytest.raises(DecodeError):
        run(tmp_path / "more", *chain(rules.MAX_LINKS + 1))


def test_entries_and_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpack_module.MAX_ENTRIES == 1_000_000
    monkeypatch.setattr(unpack_module, "MAX_ENTRIES", 5)
    run(tmp_path, *(file(b"%d" % n) for n in range(5)))
    with pytest.raises(LimitError, match="more than 5 entries"):
        run(tmp_path / "more", *(file(b"%d" % n) for n in range(6)))


@pytest.mark.parametrize("flag", [b"x", b"L", b"K"])
def test_an_extended_header_and_one_byte_more(flag: bytes) -> None:
    def feed(length: int) -> None:
        body = b"%d comment=" % length
        body += b"c" * (length - len(body) - 1) + b"\n" if flag == b"x" else b""
        text = body if flag == b"x" else b"n" * (length - 1) + b"\0"
        reader = TarReader()
        for _ in reader.feed(tb.header(b"h", flag=flag, size=length) + tb.padded(text)):
            pass
        for _ in reader.feed(symlink(b"f", b"x") if flag == b"K" else file(b"f")):
            pass

    feed(MAX_META)
    with pytest.raises(DecodeError, match="exceeds"):
        feed(MAX_META + 1)


def entry_with(value: bytes) -> Entry:
    return Entry(Kind.REGULAR, b"f", b"", 0o644, 0, 0, 0, 0, 0, 0, 0, {b"user.x": value}, None)


def test_an_attribute_and_one_byte_more(tmp_path: Path) -> None:
    verify_xattrs(entry_with(bytes(MAX_XATTR)))
    with pytest.raises(DecodeError, match=rf"user\.x of f has {MAX_XATTR + 1} bytes"):
        verify_xattrs(entry_with(bytes(MAX_XATTR + 1)))
    record = (b"SCHILY.xattr.user.x", b"v" * (MAX_XATTR + 1))
    with pytest.raises(DecodeError, match="attribute"):
        run(tmp_path, tb.pax(record), file(b"f"))


async def outcome(tar: bytes, blob: bytes, place: Path, most: int | None) -> GuestError | None:
    async with pipeline(max_bytes=most) as made:
        try:
            await unpack(made, blob, place, tar=tar, media_type=GZIP)
        except GuestError as error:
            return error
    return None


async def test_total_bytes_and_one_more(tmp_path: Path) -> None:
    tar = file(b"f", os.urandom(5000)) + tb.END
    assert await outcome(tar, gzip.compress(tar), tmp_path / "a", len(tar)) is None
    error = await outcome(tar, gzip.compress(tar), tmp_path / "b", len(tar) - 1)
    assert isinstance(error, LimitError)
    assert f"more than {len(tar) - 1} bytes uncompressed" in str(error)


async def test_an_expansion_and_one_byte_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = file(b"f", bytes(200_000)) + tb.END
    blob = gzip.compress(tar)
    assert pipeline_module.MAX_EXPANSION > 1032  # what deflate can do at the most
    monkeypatch.setattr(pipeline_module, "EXPANSION_FREE", 1000)
    times = -(-len(tar) // len(blob))
    monkeypatch.setattr(pipeline_module, "MAX_EXPANSION", times)
    assert await outcome(tar, blob, tmp_path / "a", None) is None
    monkeypatch.setattr(pipeline_module, "MAX_EXPANSION", times - 1)
    error = await outcome(tar, blob, tmp_path / "b", None)
    assert isinstance(error, LimitError)
    monkeypatch.setattr(pipeline_module, "EXPANSION_FREE", len(tar))
    assert await outcome(tar, blob, tmp_path / "c", None) is None
    monkeypatch.setattr(pipeline_module, "EXPANSION_FREE", len(tar) - 1)
    assert isinstance(await outcome(tar, blob, tmp_path / "d", None), LimitError)
