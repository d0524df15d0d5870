"""Sealed secrets for tests: the published vectors, an unsealer over fakes, a KMS that hands out."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from cdh.keyprovider.packet import AnnotationPacket
from cdh.kms import open_decrypter
from cdh.kms.base import Decrypter, ResourceClient
from cdh.secrets.keys import FOLDER, VerificationKeys
from cdh.secrets.unseal import SecretUnsealer
from guest.deadline import Deadline
from guest.secret import Secret

NOWHERE = Path("/nonexistent")
VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "cdh" / "sealed.json"


def load_vectors() -> dict[str, str]:
    """Name to text: keys, payloads, sealed secrets."""
    loaded: dict[str, str] = json.loads(VECTORS.read_text())
    return loaded


def make_unsealer(
    resources: ResourceClient,
    runtime_dir: Path = NOWHERE,
    *,
    skip: bool = False,
    opener: Callable[[AnnotationPacket], Decrypter] = open_decrypter,
) -> SecretUnsealer:
    """An unsealer whose files lie below `runtime_dir`."""
    keys = VerificationKeys(resources, runtime_dir / FOLDER)
    return SecretUnsealer(resources, keys, opener, skip_verification=skip)


class HandingKms:
    """A KMS that gives one key for everything, and notes what it was asked."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.packets: list[AnnotationPacket] = []
        self.asked: list[tuple[bytes, str, Mapping[str, object]]] = []

    def open(self, packet: AnnotationPacket) -> Decrypter:
        self.packets.append(packet)
        return self

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        self.asked.append((ciphertext, key_id, annotations))
        return Secret(self.key)
