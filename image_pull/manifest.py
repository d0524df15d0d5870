"""Image manifests and indexes: what they are made of, and which platform is ours. Sans-I/O.

Source: docs/spec/image-pull.md, section 7; OCI image-spec "Image Manifest", "Index".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec

from guest.crypto.digest import Digest, HashAlgorithm
from guest.errors import DecodeError
from guest.jsonio import check
from guest.prepared import prepared

MAX_DOCUMENT: Final = 4 * 1024 * 1024
"""Most bytes of a manifest, an index or an image configuration."""

MAX_DEPTH: Final = 32
MAX_LAYERS: Final = 127

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT: Final = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX))
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
KNOWN_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST}) | INDEX_TYPES

IMAGE_ALGORITHMS: Final = frozenset(
    {HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512}
)

GO_ARCHITECTURES: Final = MappingProxyType(
    {
        "x86_64": "amd64",
        "aarch64": "arm64",
        "s390x": "s390x",
        "ppc64le": "ppc64le",
        "riscv64": "riscv64",
        "loongarch64": "loong64",
    }
)
"""Kernel machine name to the name that images use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob as a manifest describes it.

    Attributes:
        media_type: as written.
        digest: of the blob's bytes, compressed and encrypted as they are.
        size: exact count of these bytes.
        annotations: as written; ocicrypt's keys are among them.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image manifest.

    Attributes:
        config: the image configuration's blob.
        layers: bottom first.
    """

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One manifest of an index.

    Attributes:
        descriptor: of the manifest, or of another index.
        system: operating system, empty without a platform.
        architecture: Go's name, empty without a platform.
        variant: of the architecture, or empty.
    """

    descriptor: Descriptor
    system: str
    architecture: str
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An image index or manifest list, in order."""

    entries: tuple[IndexEntry, ...]


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str | None = None


class _RawDescriptor(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    annotations: dict[str, str] | None = None
    platform: _Platform | None = None


def parse_document(body: bytes, content_type: str | None = None) -> Manifest | Index:
    """Parse what a registry gave as a manifest.

    Args:
        body: exact bytes.
        content_type: the answer's header; when it names a manifest type it must agree.

    Raises:
        DecodeError: with the peer's text where the specification fixes one.
    """
    document = parse_object(body, "manifest")
    version = document.get("schemaVersion")
    if version != 2 or isinstance(version, bool):
        raise DecodeError(f"Unsupported schema version: {str(version)[:20]}")
    media_type = document.get("mediaType")
    if media_type is not None and str(media_type) not in KNOWN_TYPES:
        raise DecodeError(f"Unsupported media type: {str(media_type)[:200]}")
    is_manifest = "config" in document or "layers" in document
    if is_manifest == ("manifests" in document):
        raise DecodeError("manifest is neither an image manifest nor an index, or both")
    header = (content_type or "").partition(";")[0].strip().lower()
    for named in (media_type, header if header in KNOWN_TYPES else None):
        if named is not None and (named in INDEX_TYPES) == is_manifest:
            raise DecodeError(f"manifest does not have the shape of {named}")
    if media_type is not None and header in KNOWN_TYPES and header != media_type:
        raise DecodeError(f"manifest of type {media_type} was sent as {header}")
    return _manifest(document) if is_manifest else _index(document)


def parse_object(body: bytes, what: str) -> dict[str, Any]:
    """Strict JSON object: no duplicate members, bounded size and depth.

    Raises:
        DecodeError: not that.
    """
    check(body, max_depth=MAX_DEPTH, max_bytes=MAX_DOCUMENT)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise DecodeError(f"{what} is not a JSON object")
    return document


def _manifest(document: Mapping[str, Any]) -> Manifest:
    config = _descriptor(_convert(document.get("config")))
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise DecodeError("manifest has no list of layers")
    if len(layers) > MAX_LAYERS:
        raise DecodeError(f"manifest has {len(layers)} layers, more than {MAX_LAYERS}")
    return Manifest(config=config, layers=tuple(_descriptor(_convert(each)) for each in layers))


def _index(document: Mapping[str, Any]) -> Index:
    manifests = document.get("manifests")
    if not isinstance(manifests, list):
        raise DecodeError("index has no list of manifests")
    entries = []
    for each in manifests:
        raw = _convert(each)
        platform = raw.platform or _Platform()
        entries.append(
            IndexEntry(
                descriptor=_descriptor(raw),
                system=platform.os,
                architecture=platform.architecture,
                variant=platform.variant or "",
            )
        )
    return Index(entries=tuple(entries))


def _convert(value: object) -> _RawDescriptor:
    try:
        return msgspec.convert(value, prepared(_RawDescriptor))
    except msgspec.ValidationError as error:
        raise DecodeError(f"manifest has a bad descriptor: {error}") from error


def _descriptor(raw: _RawDescriptor) -> Descriptor:
    return Descriptor(
        media_type=raw.media_type,
        digest=parse_digest(raw.digest),
        size=raw.size,
        annotations=MappingProxyType(dict(raw.annotations or {})),
    )


def parse_digest(text: str) -> Digest:
    """A digest in one of the algorithms that image documents may use.

    Raises:
        DecodeError: malformed, or another algorithm.
    """
    digest = Digest.parse(text)
    if digest.algorithm not in IMAGE_ALGORITHMS:
        raise DecodeError(f"digest algorithm {digest.algorithm.value} is not for images")
    return digest


def choose_platform(index: Index, architecture: str) -> Descriptor:
    """The first entry for Linux on this architecture; on arm64 rather `v8` than a narrower one.

    Args:
        index: where to look.
        architecture: Go's name of the guest's.

    Raises:
        DecodeError: there is none.
    """
    fitting = [
        entry
        for entry in index.entries
        if entry.system == "linux" and entry.architecture == architecture
    ]
    if not fitting:
        raise DecodeError(
            "Image manifest not found: no entry found in image index manifest matching "
            "client's default platform"
        )
    if architecture == "arm64":
        general = [entry for entry in fitting if entry.variant in ("", "v8")]
        fitting = general or fitting
    return fitting[0].descriptor
