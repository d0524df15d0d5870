"""The image configuration blob: platform, defaults of the process, diff_ids. Sans-I/O.

Source: docs/spec/image-pull.md, section 8; OCI image-spec "Image Configuration".
"""

from typing import Any

import msgspec

from guest.crypto.digest import Digest
from guest.errors import DecodeError
from guest.prepared import prepared
from image_pull.manifest import Manifest, parse_digest, parse_object


class ProcessDefaults(msgspec.Struct, frozen=True, rename="pascal"):
    """The `config` member: what a container made of the image starts with.

    Attributes:
        user: `user[:group]`, by name or number.
        exposed_ports: keys like `80/tcp`.
        env: `NAME=value`.
        entrypoint: first part of the arguments.
        cmd: second part of the arguments.
        volumes: keys are absolute paths.
        working_dir: may be empty.
        labels: become annotations.
        stop_signal: name or number.
    """

    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class RootFs(msgspec.Struct, frozen=True):
    """The `rootfs` member.

    Attributes:
        type: always `layers`.
        diff_ids: digests of the uncompressed tars, bottom first.
    """

    type: str
    diff_ids: tuple[str, ...]


class ImageDocument(msgspec.Struct, frozen=True):
    """The parts of an image configuration that are used.

    Attributes:
        architecture: Go's name.
        os: must be `linux` to run here.
        rootfs: the layers' digests.
        config: defaults of the process, may be absent.
        variant: of the architecture.
        author: free text.
        created: RFC 3339 text, not interpreted.
        os_version: free text.
        os_features: free texts.
    """

    architecture: str
    os: str
    rootfs: RootFs
    config: ProcessDefaults | None = None
    variant: str | None = None
    author: str | None = None
    created: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    os_features: tuple[str, ...] | None = msgspec.field(default=None, name="os.features")


def parse_image_config(body: bytes) -> ImageDocument:
    """Parse the blob.

    Raises:
        DecodeError: not an image configuration.
    """
    document = parse_object(body, "image configuration")
    try:
        return msgspec.convert(document, prepared(ImageDocument))
    except msgspec.ValidationError as error:
        raise DecodeError(f"image configuration is malformed: {error}") from error


def check_runs_here(
    document: ImageDocument, manifest: Manifest, architecture: str
) -> tuple[Digest, ...]:
    """The diff_ids, once the image is known to be for this guest and to fit its manifest.

    Raises:
        DecodeError: another platform, or another count of layers.
    """
    if len(document.rootfs.diff_ids) != len(manifest.layers):
        raise DecodeError("Pulled number of layers mismatch with image config diff_ids")
    if document.os != "linux":
        raise DecodeError(f"image is for operating system {document.os[:40]}, not linux")
    if document.architecture != architecture:
        raise DecodeError(
            f"image is for architecture {document.architecture[:40]}, not {architecture}"
        )
    diff_ids = []
    for text in document.rootfs.diff_ids:
        try:
            diff_ids.append(parse_digest(text))
        except DecodeError as error:
            raise DecodeError(f"Unsupported uncompressed digest format: {text[:140]}") from error
    return tuple(diff_ids)
