"""The world around the booted image: metadata service, key broker, registries, what is in them."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cdh.secrets.seal import seal, vault
from guest.crypto.es256 import Es256Key
from guest_simulator.cert import CertificateAuthority
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import MANIFEST, Image, Layer, build_image, document, sha256
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.evidence import InitData, Verified
from guest_simulator.kbs.server import Kbs
from guest_simulator.metadata import Cloud, Metadata
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry
from guest_simulator.tpm.verifier import verify_tpm
from image_pull.ocicrypt.encrypt import LayerEncryption
from podvm.smoke.gate import Gate

HOST: Final = "100.100.100.2"
"""The host's loopback, as the guest's network shows it."""

NAME: Final = "registry.smoke.test"
"""Of the registry, where the guest's DNS knows it."""

KEK: Final = "default/image-kek/smoke"
SIGNER: Final = "default/signing-key/smoke"
PASSWORD: Final = "default/database/password"
VOLUME: Final = "default/volume-key/smoke"
ANNOTATION: Final = "org.opencontainers.image.enc.keys.provider.attestation-agent"
USER: Final = "pod"
IMAGE_FILES: Final[Mapping[str, str]] = {
    "etc/motd": "of the second layer\n",
    "usr/share/app/data": "0123456789" * 2000,
}
IMAGE_GONE: Final = "etc/old"


@dataclass(slots=True, kw_only=True)
class World:
    """What runs on the host while the image is booted.

    Attributes:
        metadata: Alibaba Cloud's service; its user data is set before each boot.
        kbs: judges the TPM's evidence.
        registry: has the encrypted image; asks for a password.
        foreign: a registry of another authority.
        authority: PEM of the authority that issued the certificates of KBS and registry.
        sealed: a sealed secret.
        password: what it unseals to, and a resource.
        registry_password: of `USER`.
        secrets: texts that must not be in any log.
        claims: of every evidence that was verified.
        broker: the way to the key broker; another one for each boot.
    """

    metadata: Metadata
    kbs: Kbs
    registry: Registry
    foreign: Registry
    authority: str
    sealed: str
    password: str
    registry_password: str
    secrets: list[str]
    claims: list[Mapping[str, object]] = field(default_factory=list)
    broker: Gate = field(default_factory=lambda: Gate(target=0))

    def verify(self, evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
        """A verifier that keeps what it found."""
        verified = verify_tpm(evidence, expected, init_data)
        self.claims.append(verified.claims)
        return verified

    @property
    def kbs_url(self) -> str:
        """As the guest names it."""
        return f"https://{HOST}:{self.broker.port}"

    def image(self, registry: Registry, host: str = HOST) -> str:
        """The image's reference, as the guest names it."""
        return f"{host}:{registry.host.rsplit(':', 1)[1]}/demo/app:v1"

    def auth_json(self) -> str:
        """Credentials for the registry, by address and by name."""
        both = base64.b64encode(f"{USER}:{self.registry_password}".encode()).decode()
        hosts = [self.image(self.registry, name).split("/")[0] for name in (HOST, NAME)]
        return json.dumps({"auths": {host: {"auth": both} for host in hosts}})


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Start everything on loopback; stop it at the end."""
    authority = CertificateAuthority.create("smoke test")
    other = CertificateAuthority.create("another authority")
    certificate = authority.issue(HOST, NAME, "127.0.0.1")
    registry_password = secrets.token_urlsafe(18)
    password = secrets.token_urlsafe(24)
    access = Access(mode=Mode.BASIC, users={USER: registry_password})
    behaviour = Behaviour()
    async with (
        Metadata(Cloud.ALIBABA, None) as metadata,
        Kbs(behaviour=behaviour, tls=certificate.context()) as kbs,
        Registry(tls=certificate.context(), access=access) as registry,
        Registry(tls=other.issue(HOST).context()) as foreign,
    ):
        kek = secrets.token_bytes(32)
        volume_key = secrets.token_urlsafe(32)
        key = Es256Key.generate()
        kid = f"kbs:///{SIGNER}"
        sealed = seal(vault(f"kbs:///{PASSWORD}", "kbs", {}, {}), kid, key).decode()
        kbs.put_resource(KEK, kek)
        kbs.put_resource(SIGNER, key.public_jwk(kid))
        kbs.put_resource(PASSWORD, password.encode())
        kbs.put_resource(VOLUME, volume_key.encode())
        image = build_image(_layers())
        push_encrypted(registry, image, kek)
        foreign.push_image("demo/app:v1", image)
        planted = [password, volume_key, registry_password, kek.hex()]
        planted += [base64.b64encode(kek).decode(), base64.b64encode(password.encode()).decode()]
        found = World(
            metadata=metadata,
            kbs=kbs,
            registry=registry,
            foreign=foreign,
            authority=authority.pem.decode(),
            sealed=sealed,
            password=password,
            registry_password=registry_password,
            secrets=planted,
        )
        planted.append(json.loads(found.auth_json())["auths"].popitem()[1]["auth"])
        behaviour.verifiers["tpm"] = found.verify
        yield found


def push_encrypted(registry: Registry, image: Image, kek: bytes) -> None:
    """Store `demo/app:v1` with its layers encrypted, their keys wrapped by a key of the KBS."""
    manifest = json.loads(image.manifest)
    for layer, plain in zip(manifest["layers"], image.layers, strict=True):
        encryption = LayerEncryption(sha256(plain.blob))
        blob = b"".join(encryption.stream([plain.blob]))
        iv = secrets.token_bytes(12)
        wrapped = AESGCM(kek).encrypt(iv, encryption.private().reveal(), b"")
        packet = {
            "kid": f"kbs:///{KEK}",
            "wrapped_data": base64.b64encode(wrapped).decode(),
            "iv": base64.b64encode(iv).decode(),
            "wrap_type": "A256GCM",
        }
        text = base64.b64encode(json.dumps(packet).encode()).decode()
        layer |= {
            "mediaType": layer["mediaType"] + "+encrypted",
            "digest": registry.put_blob("demo/app", blob),
            "size": len(blob),
            "annotations": {**encryption.annotations(), ANNOTATION: text},
        }
    registry.put_blob("demo/app", image.config)
    registry.put_manifest("demo/app", "v1", MANIFEST, document(manifest))


def _layers() -> list[Layer]:
    def directory(path: str) -> Entry:
        return Entry(kind=Kind.DIRECTORY, path=path, mode=0o755)

    first = (
        directory("etc"),
        Entry(path="etc/motd", data=b"of the first layer\n"),
        Entry(path=IMAGE_GONE, data=b"old"),
        directory("usr"), directory("usr/share"), directory("usr/share/app"),
        Entry(path="usr/share/app/data", data=IMAGE_FILES["usr/share/app/data"].encode()),
        Entry(kind=Kind.CHARACTER, path="etc/null", major=1, minor=3, mode=0o666),
    )  # fmt: skip
    second = (
        directory("etc"),
        Entry(path="etc/motd", data=IMAGE_FILES["etc/motd"].encode()),
        Entry(kind=Kind.WHITEOUT, path=IMAGE_GONE),
    )
    return [Layer(entries=first), Layer(entries=second)]
