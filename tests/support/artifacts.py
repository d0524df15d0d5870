"""Artifacts for tests of the fetch side: blobs that a registry gets, and who has their keys."""

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from guest.deadline import Deadline
from guest.errors import DeniedError
from guest.secret import Secret
from guest_simulator.registry.server import Registry
from image_pull.artifact import TITLE
from image_pull.manifest import OCI_MANIFEST
from image_pull.ocicrypt.annotations import KEYS_PREFIX, PUBLIC_OPTIONS
from image_pull.ocicrypt.cipher import LayerEncryptor
from support.pulling import sha256

PLAIN: Final = "application/vnd.example.weights"
MIB: Final = 1 << 20
KEY: Final = Secret(bytes(range(32)))


class Unwrapper:
    """Has the key for every packet, or for none."""

    def __init__(self) -> None:
        self.asked = 0
        self.denies = False

    async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
        """Private options, which the packet is."""
        self.asked += 1
        if self.denies:
            raise DeniedError("not for you")
        packet = json.loads(request)["keyunwrapparams"]["annotation"]
        return Secret(json.dumps({"keyunwrapresults": {"optsdata": packet}}).encode())


@dataclass
class Blob:
    """One layer of an artifact, and what of it should arrive."""

    title: str | None
    data: bytes
    encrypted: bool = False
    break_mac: bool = False

    def push(self, registry: Registry, name: str) -> dict[str, Any]:
        """Have it in a repository; gives its descriptor."""
        annotations = {} if self.title is None else {TITLE: self.title}
        blob, media_type = self.data, PLAIN
        if self.encrypted:
            encryptor = LayerEncryptor(KEY, bytes(16))
            blob, media_type = encryptor.update(self.data), f"{PLAIN}+encrypted"
            mac = bytes(32) if self.break_mac else encryptor.finish()
            annotations |= _annotations(mac)
        self.digest = registry.put_blob(name, blob)
        return {
            "mediaType": media_type,
            "digest": self.digest,
            "size": len(blob),
            "annotations": annotations,
        }


def _b64(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def _annotations(mac: bytes) -> dict[str, str]:
    options = {"nonce": base64.b64encode(bytes(16)).decode()}
    key = base64.b64encode(KEY.reveal()).decode()
    private = {"symkey": key, "digest": "", "cipheroptions": options}
    public = {
        "cipher": "AES_256_CTR_HMAC_SHA256",
        "hmac": base64.b64encode(mac).decode(),
        "cipheroptions": {},
    }
    return {
        KEYS_PREFIX + "provider.attestation-agent": _b64(private),
        PUBLIC_OPTIONS: _b64(public),
    }


def push(registry: Registry, *blobs: Blob, name: str = "demo/model") -> str:
    """Have an artifact as tag `v1` of a repository; gives its digest."""
    empty = b"{}"
    registry.put_blob(name, empty)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.model",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": sha256(empty),
            "size": len(empty),
        },
        "layers": [blob.push(registry, name) for blob in blobs],
    }
    data = json.dumps(manifest).encode()
    return registry.put_manifest(name, "v1", OCI_MANIFEST, data)
