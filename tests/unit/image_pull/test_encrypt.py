"""The use case: an image encrypted on its way."""

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from guest.crypto.digest import Digest, HashAlgorithm
from guest.crypto.recipients import RecipientKey
from guest.deadline import Deadline
from guest.errors import (
    DeniedError,
    IntegrityError,
    InvalidInputError,
    UnavailableError,
    UnsupportedError,
)
from guest.secret import Secret
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image, build_index
from guest_simulator.images.layout import write_layout
from image_pull.encrypt import ImageEncryption
from image_pull.layout import LayoutDestination, LayoutSource
from image_pull.ocicrypt.decrypt import unwrap_options
from image_pull.ocicrypt.wrapping import JweWrapper
from image_pull.transfer import Document
from support.encrypted import decrypted_layers, layout_blob, layout_root

OCI = "application/vnd.oci.image."
JWE = "org.opencontainers.image.enc.keys.jwe"


def make_key() -> tuple[bytes, RecipientKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, RecipientKey.decode(public)


PRIVATE, PUBLIC = make_key()


def layer(name: str, compression: Compression = Compression.GZIP) -> Layer:
    entry = Entry(kind=Kind.FILE, path=name, data=name.encode() * 1000)
    return Layer(entries=(entry,), compression=compression, annotations={"kept": name})


IMAGE = build_image(
    [layer("a"), layer("b", Compression.ZSTD), layer("c", Compression.NONE)],
    annotations={"title": "größe"},
)


async def encrypt(
    source: Path, tag: str, destination: Path, **options: Any
) -> tuple[Digest, list[str]]:
    notes: list[str] = []
    encryption = ImageEncryption(
        LayoutSource(source, tag),
        LayoutDestination(destination, tag),
        options.pop("wrappers", [JweWrapper([PUBLIC])]),
        note=notes.append,
        **options,
    )
    return await encryption.run(), notes


async def test_every_layer_is_encrypted_and_everything_else_stays(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path / "in", "v1")
    digest, notes = await encrypt(tmp_path / "in", "v1", tmp_path / "out")
    assert len(notes) == 3
    read = layout_blob(tmp_path / "out")
    body = read(str(digest))
    assert "größe".encode() in body
    manifest = json.loads(body)
    before = json.loads(IMAGE.manifest)
    for name in set(before) - {"layers"}:
        assert manifest[name] == before[name]
    assert manifest["mediaType"] == f"{OCI}manifest.v1+json"
    assert read(manifest["config"]["digest"]) == IMAGE.config
    for old, new in zip(before["layers"], manifest["layers"], strict=True):
        assert new["mediaType"] == old["mediaType"] + "+encrypted"
        assert new["size"] == old["size"]
        assert new["digest"] != old["digest"]
        assert new["annotations"]["kept"] == old["annotations"]["kept"]
        blob = layout_blob(tmp_path / "in")(old["digest"])
        assert blob not in read(new["digest"])
    plain = await decrypted_layers(manifest, read, private_keys=[PRIVATE])
    assert plain == [each.blob for each in IMAGE.layers]
    assert str(digest) == str(HashAlgorithm.SHA256.of(body))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [([0], [True, False, False]), ([-1, 0], [True, False, True]), ([1, -2], [False, True, False])],
)
async def test_only_the_chosen_layers_are_encrypted(
    tmp_path: Path, chosen: list[int], expected: list[bool]
) -> None:
    write_layout(IMAGE, tmp_path / "in", "v1")
    await encrypt(tmp_path / "in", "v1", tmp_path / "out", layers=chosen)
    manifest = layout_root(tmp_path / "out", "v1")
    found = [each["mediaType"].endswith("+encrypted") for each in manifest["layers"]]
    assert found == expected
    read = layout_blob(tmp_path / "out")
    plain = await decrypted_layers(manifest, read, private_keys=[PRIVATE])
    assert plain == [each.blob for each in IMAGE.layers]


@pytest.mark.parametrize("number", [3, -4])
async def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, number: int) -> None:
    write_layout(IMAGE, tmp_path / "in", "v1")
    with pytest.raises(InvalidInputError, match=f"no layer {number}"):
        await encrypt(tmp_path / "in", "v1", tmp_path / "out", layers=[number])
    assert not (tmp_path / "out" / "index.json").exists()


async def test_every_image_of_an_index_is_encrypted(tmp_path: Path) -> None:
    other = build_image([layer("x")], architecture="arm64", variant="v8")
    index = build_index([IMAGE, other])
    write_layout(index, tmp_path / "in", "v1")
    await encrypt(tmp_path / "in", "v1", tmp_path / "out")
    found = layout_root(tmp_path / "out", "v1")
    assert found["mediaType"] == f"{OCI}index.v1+json"
    read = layout_blob(tmp_path / "out")
    for entry, image in zip(found["manifests"], (IMAGE, other), strict=True):
        assert entry["platform"] == image.platform
        manifest = json.loads(read(entry["digest"]))
        assert entry["size"] == len(read(entry["digest"]))
        plain = await decrypted_layers(manifest, read, private_keys=[PRIVATE])
        assert plain == [each.blob for each in image.layers]


async def test_what_describes_the_plain_image_is_left_out_of_the_index(tmp_path: Path) -> None:
    statement = build_image([layer("sbom")])
    index = build_index([IMAGE, statement])
    document = json.loads(index.index)
    document["manifests"][1]["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    changed = type(index)(images=index.images, index=json.dumps(document).encode())
    write_layout(changed, tmp_path / "in", "v1")
    _, notes = await encrypt(tmp_path / "in", "v1", tmp_path / "out")
    assert len(layout_root(tmp_path / "out", "v1")["manifests"]) == 1
    assert any("left out" in note for note in notes)


def as_docker(image: Image) -> Image:
    manifest = json.loads(image.manifest)
    manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for each in manifest["layers"]:
        kind = "diff.tar" + each["mediaType"].rpartition(".tar")[2].replace("+", ".")
        each["mediaType"] = f"application/vnd.docker.image.rootfs.{kind}"
    return Image(
        layers=image.layers,
        config=image.config,
        manifest=json.dumps(manifest).encode(),
        platform=image.platform,
    )


async def test_a_docker_image_becomes_an_oci_image(tmp_path: Path) -> None:
    write_layout(as_docker(IMAGE), tmp_path / "in", "v1")
    await encrypt(tmp_path / "in", "v1", tmp_path / "out", layers=[0])
    manifest = layout_root(tmp_path / "out", "v1")
    assert manifest["mediaType"] == f"{OCI}manifest.v1+json"
    assert manifest["config"]["mediaType"] == f"{OCI}config.v1+json"
    assert [each["mediaType"] for each in manifest["layers"]] == [
        f"{OCI}layer.v1.tar+gzip+encrypted",
        f"{OCI}layer.v1.tar+zstd",
        f"{OCI}layer.v1.tar",
    ]
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert index["manifests"][0]["mediaType"] == manifest["mediaType"]


async def test_recipients_are_added_without_touching_the_data(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path / "in", "v1")
    await encrypt(tmp_path / "in", "v1", tmp_path / "once")
    first = layout_root(tmp_path / "once", "v1")
    other_private, other_public = make_key()
    with pytest.raises(InvalidInputError, match="encrypted already"):
        await encrypt(tmp_path / "once", "v1", tmp_path / "no")

    async def unwrap(annotations: Mapping[str, str], deadline: Deadline) -> Secret:
        keys = [Secret(PRIVATE)]
        return await unwrap_options(annotations, keys=None, private_keys=keys, deadline=deadline)

    wrappers = [JweWrapper([other_public])]
    await encrypt(tmp_path / "once", "v1", tmp_path / "twice", wrappers=wrappers, unwrap=unwrap)
    second = layout_root(tmp_path / "twice", "v1")
    for old, new in zip(first["layers"], second["layers"], strict=True):
        assert new["annotations"].pop(JWE).startswith(old["annotations"].pop(JWE) + ",")
        assert new == old
    second = layout_root(tmp_path / "twice", "v1")
    read = layout_blob(tmp_path / "twice")
    for key in (PRIVATE, other_private):
        plain = await decrypted_layers(second, read, private_keys=[key])
        assert plain == [each.blob for each in IMAGE.layers]


async def test_a_layer_that_cannot_be_encrypted_stops_everything_before_it_starts(
    tmp_path: Path,
) -> None:
    manifest = json.loads(IMAGE.manifest)
    manifest["layers"][1]["mediaType"] = "application/vnd.in-toto+json"
    odd = Image(
        layers=IMAGE.layers,
        config=IMAGE.config,
        manifest=json.dumps(manifest).encode(),
        platform=IMAGE.platform,
    )
    write_layout(odd, tmp_path / "in", "v1")
    with pytest.raises(UnsupportedError, match="layer 1 cannot be encrypted"):
        await encrypt(tmp_path / "in", "v1", tmp_path / "out")
    assert list((tmp_path / "out" / "blobs" / "sha256").iterdir()) == []


async def test_a_source_blob_that_was_changed_gives_no_image(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path / "in", "v1")
    name = str(json.loads(IMAGE.manifest)["layers"][2]["digest"]).removeprefix("sha256:")
    path = tmp_path / "in" / "blobs" / "sha256" / name
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError):
        await encrypt(tmp_path / "in", "v1", tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()


class Denying:
    """A recipient that gets no key."""

    annotation = "x"

    async def wrap(self, private_options: Secret, deadline: Deadline) -> bytes:
        raise DeniedError("not for you")


async def test_no_key_no_image(tmp_path: Path) -> None:
    write_layout(IMAGE, tmp_path / "in", "v1")
    with pytest.raises(DeniedError):
        await encrypt(tmp_path / "in", "v1", tmp_path / "out", wrappers=[Denying()])
    assert not (tmp_path / "out" / "index.json").exists()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"schemaVersion":1}', b'{"schemaVersion":2}'])
async def test_what_is_no_image_is_refused(tmp_path: Path, body: bytes) -> None:
    class Odd:
        def root(self) -> Document:
            return Document(body=body, media_type=None, digest=HashAlgorithm.SHA256.of(body))

        def document(self, digest: Digest) -> Document:
            raise AssertionError

        def read(self, digest: Digest, size: int) -> Iterator[bytes]:
            raise AssertionError

        def close(self) -> None:
            pass

    encryption = ImageEncryption(
        Odd(), LayoutDestination(tmp_path / "out", "v1"), [JweWrapper([PUBLIC])]
    )
    with pytest.raises(InvalidInputError, match="is no image"):
        await encryption.run()


class Stream:
    """A source with one layer of any length, and a destination that forgets."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.written = threading.Event()
        self.fail_after: int | None = None
        chunk = bytes(1024 * 1024)
        hasher = HashAlgorithm.SHA256.new()
        for _ in range(size // len(chunk)):
            hasher.update(chunk)
        self.digest = Digest(HashAlgorithm.SHA256, hasher.digest())
        config = HashAlgorithm.SHA256.of(b"{}")
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}manifest.v1+json",
                "config": {
                    "mediaType": f"{OCI}config.v1+json",
                    "digest": str(config),
                    "size": 2,
                },
                "layers": [
                    {
                        "mediaType": f"{OCI}layer.v1.tar",
                        "digest": str(self.digest),
                        "size": size,
                    }
                ],
            }
        ).encode()

    def root(self) -> Document:
        digest = HashAlgorithm.SHA256.of(self.manifest)
        return Document(body=self.manifest, media_type=None, digest=digest)

    def document(self, digest: Digest) -> Document:
        raise AssertionError

    def read(self, digest: Digest, size: int) -> Iterator[bytes]:
        if size == 2:
            yield b"{}"
            return
        for number in range(size // (1024 * 1024)):
            if number == self.fail_after:
                raise UnavailableError("broke off")
            yield bytes(1024 * 1024)

    def prepare(self) -> None:
        pass

    def has(self, digest: Digest, size: int) -> bool:
        return False

    def write(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        hasher, size = HashAlgorithm.SHA256.new(), 0
        for chunk in chunks:
            hasher.update(chunk)
            size += len(chunk)
            self.written.set()
        return Digest(HashAlgorithm.SHA256, hasher.digest()), size

    def put_document(self, body: bytes, media_type: str, *, is_root: bool) -> Digest:
        return HashAlgorithm.SHA256.of(body)

    def close(self) -> None:
        pass


async def test_memory_does_not_grow_with_the_layer() -> None:
    stream = Stream(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        await ImageEncryption(stream, stream, [JweWrapper([PUBLIC])]).run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


async def test_a_source_that_breaks_off_fails_the_copy() -> None:
    stream = Stream(4 * 1024 * 1024)
    stream.fail_after = 2
    with pytest.raises(UnavailableError, match="broke off"):
        await ImageEncryption(stream, stream, [JweWrapper([PUBLIC])]).run()


def threads_of_copies() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("encrypt")]


async def test_a_copy_that_is_cancelled_has_ended_its_threads() -> None:
    stream = Stream(1024 * 1024 * 1024)
    task = asyncio.create_task(ImageEncryption(stream, stream, [JweWrapper([PUBLIC])]).run())
    while not stream.written.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads_of_copies() == []


async def test_a_copy_that_fails_has_ended_its_threads() -> None:
    stream = Stream(1024 * 1024)
    manifest = json.loads(stream.manifest)
    denied = manifest["layers"][0]
    manifest["layers"].append(denied | {"size": 2**30})  # is being written meanwhile
    stream.manifest = json.dumps(manifest).encode()
    with pytest.raises(DeniedError):
        await ImageEncryption(stream, stream, [Denying()]).run()
    assert threads_of_copies() == []
