"""Layers, manifests and indexes: bytes and digests.

Source: OCI image-spec "Image Manifest", "Image Configuration", "Image Index".
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from guest_simulator.images.entries import Entry, tar_bytes

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
GZIP_LEVEL: Final = 6


class Compression(StrEnum):
    """How a layer is packed; the value is the end of its media type."""

    NONE = ""
    GZIP = "+gzip"
    ZSTD = "+zstd"


def sha256(data: bytes) -> str:
    """A digest as manifests spell it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compress(data: bytes, compression: Compression) -> bytes:
    """Pack bytes, the same way every time."""
    match compression:
        case Compression.NONE:
            return data
        case Compression.GZIP:
            return gzip.compress(data, GZIP_LEVEL, mtime=0)
        case Compression.ZSTD:
            import zstandard

            return zstandard.ZstdCompressor(level=3).compress(data)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Entries, and what they become.

    Attributes:
        entries: in the order of the archive.
        annotations: of the layer's descriptor.
    """

    entries: tuple[Entry, ...]
    compression: Compression = Compression.GZIP
    annotations: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def tar(self) -> bytes:
        """The uncompressed archive."""
        return tar_bytes(self.entries)

    @cached_property
    def blob(self) -> bytes:
        """The archive as it is stored."""
        return compress(self.tar, self.compression)

    @cached_property
    def diff_id(self) -> str:
        """Digest of the archive."""
        return sha256(self.tar)

    @cached_property
    def descriptor(self) -> dict[str, object]:
        """Media type, digest, size, annotations."""
        found = descriptor(LAYER + self.compression, self.blob)
        return {**found, "annotations": dict(self.annotations)} if self.annotations else found


def descriptor(media_type: str, data: bytes) -> dict[str, object]:
    """A descriptor of some bytes."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def document(value: object) -> bytes:
    """JSON without whitespace, members in the order given."""
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or index."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """Its digest."""
        return sha256(self.data)


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image for one platform.

    Attributes:
        layers: lowest first.
        config: bytes of the configuration.
        manifest: bytes of the manifest.
        platform: `architecture`, `os` and perhaps `variant`.
    """

    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes
    platform: Mapping[str, str]

    @cached_property
    def manifest_digest(self) -> str:
        """Digest of the manifest."""
        return sha256(self.manifest)

    @cached_property
    def blobs(self) -> dict[str, bytes]:
        """Configuration and layers by digest."""
        found = {sha256(self.config): self.config}
        return found | {str(layer.descriptor["digest"]): layer.blob for layer in self.layers}

    @property
    def manifests(self) -> tuple[Document, ...]:
        """The documents to push, the outermost last."""
        return (Document(media_type=MANIFEST, data=self.manifest),)

    @property
    def descriptor(self) -> dict[str, object]:
        """As an index lists it."""
        return {**descriptor(MANIFEST, self.manifest), "platform": dict(self.platform)}


@dataclass(frozen=True, kw_only=True)
class Index:
    """Several images under one name."""

    images: tuple[Image, ...]
    index: bytes

    @cached_property
    def manifest_digest(self) -> str:
        """Digest of the index."""
        return sha256(self.index)

    @cached_property
    def blobs(self) -> dict[str, bytes]:
        """All configurations and layers by digest."""
        return {digest: data for image in self.images for digest, data in image.blobs.items()}

    @property
    def manifests(self) -> tuple[Document, ...]:
        """The documents to push, the index last."""
        inner = tuple(item for image in self.images for item in image.manifests)
        return (*inner, Document(media_type=INDEX, data=self.index))

    @property
    def descriptor(self) -> dict[str, object]:
        """As a layout's `index.json` lists it."""
        return descriptor(INDEX, self.index)


def build_image(
    layers: Sequence[Layer],
    *,
    architecture: str = "amd64",
    os: str = "linux",
    variant: str = "",
    config: Mapping[str, object] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """An image of these layers, lowest first.

    Args:
        layers: at least one.
        architecture: Go's name.
        os: Go's name.
        variant: e.g. `v8`; empty for none.
        config: the member `config` (`Env`, `Cmd`, ...).
        annotations: of the manifest.
    """
    platform = {"architecture": architecture, "os": os}
    if variant:
        platform["variant"] = variant
    configuration: dict[str, object] = {
        "created": "2023-11-14T22:13:20Z",
        **platform,
        "config": dict(config or {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"]}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": f"layer {n}"} for n in range(len(layers))],
    }
    config_bytes = document(configuration)
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config_bytes),
        "layers": [layer.descriptor for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(
        layers=tuple(layers),
        config=config_bytes,
        manifest=document(manifest),
        platform=platform,
    )


def build_index(images: Sequence[Image]) -> Index:
    """An index over images of different platforms."""
    listed = [image.descriptor for image in images]
    value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    return Index(images=tuple(images), index=document(value))
