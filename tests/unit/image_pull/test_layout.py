"""OCI layouts, read and written."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import IntegrityError, InvalidInputError, NotFoundError, PlatformError
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.images.layout import write_layout
from image_pull.layout import LayoutDestination, LayoutSource

IMAGE = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=b"1"),))])
OTHER = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="b", data=b"2"),))])


def test_an_image_is_found_by_its_tag_and_alone_without_one(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path, "one")
    assert LayoutSource(tmp_path, None).root().body == IMAGE.manifest
    write_layout(OTHER, tmp_path, "two")
    assert LayoutSource(tmp_path, "two").root().body == OTHER.manifest
    with pytest.raises(InvalidInputError, match="2 images"):
        LayoutSource(tmp_path, None).root()
    with pytest.raises(NotFoundError, match="three"):
        LayoutSource(tmp_path, "three").root()


def test_a_blob_is_read_and_checked(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path, "one")
    source = LayoutSource(tmp_path, None)
    blob = IMAGE.layers[0].blob
    digest = HashAlgorithm.SHA256.of(blob)
    assert b"".join(source.read(digest, len(blob))) == blob
    path = tmp_path / "blobs" / "sha256" / digest.hex
    for changed in (blob[:-1], blob + b"x", b"x" + blob[1:]):
        path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            list(source.read(digest, len(blob)))
    path.unlink()
    with pytest.raises(NotFoundError):
        list(source.read(digest, len(blob)))


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path, "one")
    path = tmp_path / "blobs" / "sha256" / IMAGE.manifest_digest.removeprefix("sha256:")
    path.write_bytes(IMAGE.manifest + b" ")
    with pytest.raises(IntegrityError):
        LayoutSource(tmp_path, None).root()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"manifests":[{"digest":"x"}]}', b'{"manifests":[],"manifests":[]}']
)
def test_what_is_no_layout_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NotFoundError):
        LayoutSource(tmp_path / "none", None).root()
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(InvalidInputError):
        LayoutSource(tmp_path, None).root()


def test_what_is_written_is_read_again_and_other_images_stay(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path, "one")
    destination = LayoutDestination(tmp_path, "two")
    destination.prepare()
    for blob in OTHER.blobs.values():
        digest, size = destination.write([blob[:3], blob[3:]])
        assert (digest, size) == (HashAlgorithm.SHA256.of(blob), len(blob))
        assert destination.has(digest, size)
        assert not destination.has(digest, size + 1)
    media_type = "application/vnd.oci.image.manifest.v1+json"
    digest = destination.put_document(OTHER.manifest, media_type, is_root=True)
    assert str(digest) == OTHER.manifest_digest
    assert LayoutSource(tmp_path, "two").root().body == OTHER.manifest
    assert LayoutSource(tmp_path, "one").root().body == IMAGE.manifest


def test_a_tag_that_is_written_again_moves(tmp_path: Path) -> None:
    for image in (IMAGE, OTHER, OTHER):
        destination = LayoutDestination(tmp_path, "one")
        destination.prepare()
        destination.put_document(image.manifest, "x", is_root=True)
        untagged = LayoutDestination(tmp_path, None)
        untagged.put_document(image.manifest, "x", is_root=True)
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert len(index["manifests"]) == 3
    assert LayoutSource(tmp_path, "one").root().body == OTHER.manifest


def test_nothing_is_left_of_a_blob_whose_source_fails(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise IntegrityError("no")

    destination = LayoutDestination(tmp_path, None)
    destination.prepare()
    with pytest.raises(IntegrityError):
        destination.write(chunks())
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(InvalidInputError, match="neither empty nor a layout"):
        LayoutDestination(tmp_path, "t").prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(PlatformError):
        LayoutDestination(tmp_path / "precious" / "x", "t").prepare()


def test_a_digest_of_another_algorithm_has_its_own_folder(tmp_path: Path) -> None:
    blob = b"x"
    digest: Digest = HashAlgorithm.SHA512.of(blob)
    folder = tmp_path / "blobs" / "sha512"
    folder.mkdir(parents=True)
    (folder / digest.hex).write_bytes(blob)
    assert list(LayoutSource(tmp_path, None).read(digest, 1)) == [blob]
