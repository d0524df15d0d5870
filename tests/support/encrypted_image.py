"""Encrypted images in a simulator's registry, wrapped as an owner of a KBS wraps them."""

import base64
import json
import os
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guest_simulator.images.image import MANIFEST, Image, document, sha256
from guest_simulator.registry.server import Registry
from image_pull.ocicrypt.encrypt import LayerEncryption

PREFIX = "org.opencontainers.image.enc.keys."
PROVIDER = PREFIX + "provider.attestation-agent"

Wrap = Callable[[bytes], bytes]
"""From private options to a packet."""


def wrapped_by_kek(kek: bytes, kid: str) -> Wrap:
    """A packet of version 1 for a KEK of the KBS."""

    def wrap(options: bytes) -> bytes:
        iv = os.urandom(12)
        packet = {
            "kid": kid,
            "wrapped_data": base64.b64encode(AESGCM(kek).encrypt(iv, options, b"")).decode(),
            "iv": base64.b64encode(iv).decode(),
            "wrap_type": "A256GCM",
        }
        return json.dumps(packet).encode()

    return wrap


def push_encrypted(
    registry: Registry, name: str, image: Image, wrap: Wrap, annotation: str = PROVIDER
) -> str:
    """Store an image under `<name>:v1` with all of its layers encrypted; its reference."""
    manifest = json.loads(image.manifest)
    for layer, plain in zip(manifest["layers"], image.layers, strict=True):
        encryption = LayerEncryption(sha256(plain.blob))
        blob = b"".join(encryption.stream([plain.blob]))
        packet = base64.b64encode(wrap(encryption.private().reveal())).decode()
        layer |= {
            "mediaType": layer["mediaType"] + "+encrypted",
            "digest": registry.put_blob(name, blob),
            "size": len(blob),
            "annotations": {**encryption.annotations(), annotation: packet},
        }
    registry.put_blob(name, image.config)
    registry.put_manifest(name, "v1", MANIFEST, document(manifest))
    return f"{registry.host}/{name}:v1"
