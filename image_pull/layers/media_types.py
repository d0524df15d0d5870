"""Layer media types: which are known, encrypted, and how their tar is compressed. Sans-I/O.

The media type decides; content is never looked at to find out.

Source: docs/spec/image-pull.md §10.2; docs/spec/ocicrypt.md §2.
"""

from enum import StrEnum
from typing import Final

from guest.errors import UnsupportedError

ENCRYPTED: Final = "+encrypted"


class Compression(StrEnum):
    """How a layer's tar is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_OCI: Final = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

PLAIN: Final = {
    _OCI: Compression.NONE,
    _OCI + "+gzip": Compression.GZIP,
    _OCI + "+zstd": Compression.ZSTD,
    _OCI_FOREIGN: Compression.NONE,
    _OCI_FOREIGN + "+gzip": Compression.GZIP,
    _OCI_FOREIGN + "+zstd": Compression.ZSTD,
    _DOCKER: Compression.NONE,
    _DOCKER + ".gzip": Compression.GZIP,
    _DOCKER + ".zstd": Compression.ZSTD,
    _DOCKER_FOREIGN + ".gzip": Compression.GZIP,
}
"""Every media type that can be unpacked, encryption taken off."""


def is_encrypted(media_type: str) -> bool:
    """Whether a layer of this type needs a key."""
    return media_type.endswith(ENCRYPTED)


def plain_media_type(media_type: str) -> str:
    """The type of what is inside the encryption; the same where there is none."""
    return media_type.removesuffix(ENCRYPTED)


def compression_of(media_type: str) -> Compression:
    """How a layer of this type, encrypted or not, is compressed.

    Raises:
        UnsupportedError: the type is not a tar that we know.
    """
    found = PLAIN.get(plain_media_type(media_type))
    if found is None:
        raise UnsupportedError(f"Failed to decode layer: unhandled media type: {media_type[:200]}")
    return found
