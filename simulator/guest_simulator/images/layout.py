"""An image as an OCI layout on disk.

Source: OCI image-spec "Image Layout".
"""

import json
from pathlib import Path
from typing import Final

from guest_simulator.images.image import Image, Index, document

REF_NAME: Final = "org.opencontainers.image.ref.name"
VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'


def write_layout(image: Image | Index, directory: Path, tag: str = "latest") -> None:
    """Write an image into a layout directory, beside what it already holds.

    Args:
        image: what to write.
        directory: made when absent.
        tag: its name in `index.json`; an older entry of this name is replaced.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, data in image.blobs.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    for item in image.manifests:
        (blobs / item.digest.removeprefix("sha256:")).write_bytes(item.data)
    (directory / "oci-layout").write_bytes(VERSION)
    path = directory / "index.json"
    listed = json.loads(path.read_bytes())["manifests"] if path.exists() else []
    kept = [entry for entry in listed if entry.get("annotations", {}).get(REF_NAME) != tag]
    kept.append({**image.descriptor, "annotations": {REF_NAME: tag}})
    path.write_bytes(document({"schemaVersion": 2, "manifests": kept}))
