"""Images that were encrypted, opened again: for tests of whoever encrypts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.secret import Secret
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.ocicrypt.decrypt import layer_decryptor
from image_pull.ocicrypt.protocol import KeyUnwrapper

ReadBlob = Callable[[str], bytes]
"""From a digest to the bytes."""


def layout_blob(directory: Path) -> ReadBlob:
    """Reads blobs of a layout."""

    def read(digest: str) -> bytes:
        algorithm, _, name = digest.partition(":")
        return (directory / "blobs" / algorithm / name).read_bytes()

    return read


def layout_root(directory: Path, tag: str) -> dict[str, Any]:
    """The manifest or index that a layout has under a tag."""
    index = json.loads((directory / "index.json").read_bytes())
    for entry in index["manifests"]:
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            document: dict[str, Any] = json.loads(layout_blob(directory)(entry["digest"]))
            return document
    raise KeyError(tag)


async def decrypted_layers(
    manifest: dict[str, Any],
    read: ReadBlob,
    *,
    keys: KeyUnwrapper | None = None,
    private_keys: Sequence[bytes] = (),
) -> list[bytes]:
    """The plain blobs of all layers; those that are not encrypted as they are."""
    found = []
    for layer in manifest["layers"]:
        blob = read(layer["digest"])
        assert len(blob) == layer["size"]
        if not layer["mediaType"].endswith("+encrypted"):
            found.append(blob)
            continue
        decryptor = await layer_decryptor(
            LayerDescriptor(
                media_type=layer["mediaType"],
                digest=Digest.parse(layer["digest"]),
                size=layer["size"],
                annotations=layer["annotations"],
            ),
            keys=keys,
            private_keys=[Secret(key) for key in private_keys],
            deadline=Deadline.after(30),
        )
        plain = decryptor.update(blob)
        decryptor.finish()
        found.append(bytes(plain))
    return found
