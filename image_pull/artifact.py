"""What files an OCI artifact consists of, by its manifest. Sans-I/O.

Source: OCI image-spec "Guidelines for Artifact Usage", annotation
`org.opencontainers.image.title`.
"""

from dataclasses import dataclass
from typing import Final

from guest.errors import DecodeError
from image_pull.layers.media_types import is_encrypted
from image_pull.manifest import Descriptor, Manifest

TITLE: Final = "org.opencontainers.image.title"
"""The annotation of a layer that is its file's name."""

MAX_NAME: Final = 255
MAX_PATH: Final = 1024
"""Most bytes of a part of a name, and of all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file.

    Attributes:
        parts: of its path; empty where the artifact is this one file.
        descriptor: of its blob.
        encrypted: whether the blob needs a key.
    """

    parts: tuple[str, ...]
    descriptor: Descriptor
    encrypted: bool


def artifact_files(manifest: Manifest) -> tuple[ArtifactFile, ...]:
    """The files, in the manifest's order; one layer alone needs no name and gets none.

    Raises:
        DecodeError: no layer, or names that are no files' or do not go together.
    """
    if not manifest.layers:
        raise DecodeError("artifact has no layer")
    if len(manifest.layers) == 1:
        return (_file((), manifest.layers[0]),)
    files = [_file(_parts(layer), layer) for layer in manifest.layers]
    names = {each.parts for each in files}
    if len(names) != len(files):
        raise DecodeError("two layers of the artifact have one name")
    for parts in names:
        if any(parts[:length] in names for length in range(1, len(parts))):
            raise DecodeError(f"layer {'/'.join(parts)[:200]!r} lies in another layer's file")
    return tuple(files)


def _file(parts: tuple[str, ...], layer: Descriptor) -> ArtifactFile:
    return ArtifactFile(parts=parts, descriptor=layer, encrypted=is_encrypted(layer.media_type))


def _parts(layer: Descriptor) -> tuple[str, ...]:
    title = layer.annotations.get(TITLE, "")
    parts = tuple(title.split("/"))
    if len(title.encode("utf-8", "replace")) > MAX_PATH or not all(map(_is_name, parts)):
        raise DecodeError(f"layer {layer.digest} has no title that can be a file: {title[:200]!r}")
    return parts


def _is_name(part: str) -> bool:
    if part in ("", ".", "..") or not part.isprintable():
        return False
    return len(part.encode("utf-8", "replace")) <= MAX_NAME
