"""Images: deterministic bytes, what layers hold, what they must become."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from guest_simulator.images.demo import LONG_NAME, demo_layers
from guest_simulator.images.entries import Entry, Kind, tar_bytes
from guest_simulator.images.image import (
    CONFIG,
    Compression,
    Layer,
    build_image,
    build_index,
    sha256,
)
from guest_simulator.images.layout import write_layout
from guest_simulator.images.rootfs import expected_rootfs, resolve


def directory(path: str) -> Entry:
    return Entry(kind=Kind.DIRECTORY, path=path, mode=0o755)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_a_tar_holds_what_its_entries_say() -> None:
    entries = (
        directory("d"),
        Entry(path="d/" + "x" * 300, data=b"abc", mode=0o4755, uid=1000, gid=2**22),
        Entry(kind=Kind.SYMLINK, path="s", target="t" * 200),
        Entry(kind=Kind.HARD_LINK, path="h", target="s"),
        Entry(kind=Kind.CHARACTER, path="c", major=1, minor=3),
        Entry(path="x", xattrs={"user.a": b"\x00\xff", "user.b": b"text"}, mtime=1.5),
        Entry(kind=Kind.WHITEOUT, path="d/gone"),
        Entry(kind=Kind.WHITEOUT, path="top"),
        Entry(kind=Kind.OPAQUE, path="d"),
        Entry(kind=Kind.OPAQUE, path=""),
    )
    data = tar_bytes(entries)
    assert data == tar_bytes(entries)
    found = members(data)
    assert list(found) == [
        "d", "d/" + "x" * 300, "s", "h", "c", "x", "d/.wh.gone", ".wh.top", "d/.wh..wh..opq",
        ".wh..wh..opq",
    ]  # fmt: skip
    file = found["d/" + "x" * 300]
    assert (file.size, file.mode, file.uid, file.gid) == (3, 0o4755, 1000, 2**22)
    assert found["s"].linkname == "t" * 200
    assert (found["h"].type, found["h"].linkname) == (tarfile.LNKTYPE, "s")
    assert (found["c"].devmajor, found["c"].devminor) == (1, 3)
    assert found["x"].pax_headers["mtime"] == "1.5"
    assert b"SCHILY.xattr.user.a=\x00\xff\n" in data
    assert found["d/.wh.gone"].isreg()


@pytest.mark.parametrize("compression", list(Compression))
def test_a_layers_blob_unpacks_to_its_tar(compression: Compression) -> None:
    layer = Layer(entries=(Entry(path="a", data=b"x" * 10_000),), compression=compression)
    match compression:
        case Compression.NONE:
            unpacked = layer.blob
        case Compression.GZIP:
            unpacked = gzip.decompress(layer.blob)
        case Compression.ZSTD:
            unpacked = zstandard.ZstdDecompressor().decompress(layer.blob)
    assert unpacked == layer.tar
    assert layer.diff_id == f"sha256:{hashlib.sha256(layer.tar).hexdigest()}"
    again = Layer(entries=layer.entries, compression=compression)
    assert again.descriptor == layer.descriptor
    end = {"": ".tar", "+gzip": ".tar+gzip", "+zstd": ".tar+zstd"}[compression]
    assert str(layer.descriptor["mediaType"]).endswith(end)


def test_a_manifest_names_its_blobs_in_order() -> None:
    layers = [Layer(entries=(Entry(path=name),), annotations={"n": name}) for name in ("a", "b")]
    image = build_image(layers, architecture="arm64", variant="v8", annotations={"k": "v"})
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    assert manifest["config"] == {
        "mediaType": CONFIG, "digest": sha256(image.config), "size": len(image.config),
    }  # fmt: skip
    assert [entry["annotations"]["n"] for entry in manifest["layers"]] == ["a", "b"]
    for entry in manifest["layers"]:
        assert sha256(image.blobs[entry["digest"]]) == entry["digest"]
        assert len(image.blobs[entry["digest"]]) == entry["size"]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in layers]
    assert (config["architecture"], config["os"], config["variant"]) == ("arm64", "linux", "v8")
    index = json.loads(build_index([image]).index)
    assert index["manifests"][0]["platform"]["variant"] == "v8"
    assert index["manifests"][0]["digest"] == image.manifest_digest


def test_a_layout_holds_several_images_by_tag(tmp_path: Path) -> None:
    first = build_image([Layer(entries=(Entry(path="a"),))])
    second = build_index([build_image([Layer(entries=(Entry(path="b"),))])])
    write_layout(first, tmp_path, "one")
    write_layout(second, tmp_path, "two")
    write_layout(first, tmp_path, "one")
    assert json.loads((tmp_path / "oci-layout").read_bytes())["imageLayoutVersion"] == "1.0.0"
    listed: Any = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    names = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
        for entry in listed
    }
    assert len(listed) == 2
    assert names == {"one": first.manifest_digest, "two": second.manifest_digest}
    for path in (tmp_path / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_whiteouts_and_opaque_markers_hide_lower_layers_only() -> None:
    lower = (directory("d"), Entry(path="d/old"), Entry(path="f"), directory("e"),
             Entry(path="e/x"), Entry(path="keep"))  # fmt: skip
    upper = (
        directory("d"),
        Entry(path="d/new"),
        Entry(kind=Kind.OPAQUE, path="d"),
        Entry(kind=Kind.WHITEOUT, path="f"),
        Entry(kind=Kind.WHITEOUT, path="e"),
        Entry(kind=Kind.WHITEOUT, path="absent"),
    )
    tree = expected_rootfs([Layer(entries=lower), Layer(entries=upper)])
    assert list(tree) == ["d", "d/new", "keep"]


def test_a_file_replaces_a_directory_and_the_other_way_round() -> None:
    lower = (directory("a"), Entry(path="a/x"), Entry(path="b"))
    upper = (Entry(path="a", data=b"file"), directory("b"), Entry(path="b/y"))
    tree = expected_rootfs([Layer(entries=lower), Layer(entries=upper)])
    assert {path: entry.kind for path, entry in tree.items()} == {
        "a": Kind.FILE, "b": Kind.DIRECTORY, "b/y": Kind.FILE,
    }  # fmt: skip


def test_a_hard_link_outlives_the_name_it_was_made_from() -> None:
    lower = (
        Entry(path="a", data=b"1"),
        Entry(kind=Kind.HARD_LINK, path="b", target="a"),
        Entry(kind=Kind.HARD_LINK, path="c", target="a"),
    )
    upper = (Entry(kind=Kind.WHITEOUT, path="a"),)
    tree = expected_rootfs([Layer(entries=lower), Layer(entries=upper)])
    assert list(tree) == ["b", "c"]
    assert resolve(tree, "b").data == resolve(tree, "c").data == b"1"
    replaced = (Entry(path="a", data=b"2"),)
    tree = expected_rootfs([Layer(entries=lower), Layer(entries=replaced)])
    assert [resolve(tree, path).data for path in tree] == [b"2", b"1", b"1"]


def test_the_demo_image_has_one_of_everything_and_real_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for n in range(5):
        (tmp_path / "sub" / f"{n}.txt").write_text(str(n))
    (tmp_path / "link").symlink_to("sub/0.txt")
    layers = demo_layers(tmp_path, 4)
    kinds = {entry.kind for layer in layers for entry in layer.entries}
    assert kinds == set(Kind)
    assert {layer.compression for layer in layers} == set(Compression)
    tree = expected_rootfs(layers)
    real = [path for path in tree if path.startswith("usr/lib/real/") and tree[path].data]
    assert len(real) == 3
    assert tree["usr/lib/real/link"].target == "sub/0.txt"
    assert f"home/{LONG_NAME}" in tree
    assert "etc/shadow" not in tree
    assert sorted(path for path in tree if path.startswith("etc/old/")) == ["etc/old/three"]
    assert tree["usr/bin/su"].mode == 0o4755
    manifests = {build_image(demo_layers(tmp_path, 4)).manifest for _ in range(2)}
    assert len(manifests) == 1


def test_unprivileged_demo_layers_have_no_privileged_attributes(tmp_path: Path) -> None:
    layers = demo_layers(tmp_path, 0, privileged=False)
    names = {name for layer in layers for entry in layer.entries for name in entry.xattrs}
    assert names == {"user.note"}


def test_the_default_source_has_thousands_of_files() -> None:
    tree = expected_rootfs(demo_layers(files=1500))
    assert sum(entry.kind is Kind.FILE for entry in tree.values()) >= 1000
