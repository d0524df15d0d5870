"""Images that are signed without keys, and policies for them: in memory, whole through the gate."""

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DeniedError
from image_pull.reference import ImageReference
from image_pull.signature.evaluation import Candidate, Means
from image_pull.signature.gate import PolicyGate
from image_pull.signature.policy import Policy
from image_pull.sources import Sources
from support.pulling import Resources
from support.signing import (
    BUNDLE,
    EMPTY,
    OCI_MANIFEST,
    SIMPLE_SIGNING,
    Repository,
    cosign_payload,
    descriptor,
)
from support.sigstore_world import (
    EMAIL,
    ISSUER,
    Signer,
    SigstoreWorld,
    certificate_pem,
    public_pem,
    sign,
)

TEXT = "Image policy rejected: Denied by policy: rejected by `sigstoreSigned` rule"
REFERENCE = "registry.example/t/base:v1"
NAME = "registry.example/t/base"
MANIFEST = HashAlgorithm.SHA256.of(b"manifest")
D = str(MANIFEST)
WHO = {"oidcIssuer": ISSUER, "subjectEmail": EMAIL}
SECOND = timedelta(seconds=1)


def b64(data: bytes | str) -> str:
    """Standard base64."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def by_authority(world: SigstoreWorld, **changes: Any) -> dict[str, Any]:
    """The requirement as containers/image has it."""
    return {
        "type": "sigstoreSigned",
        "fulcio": {"caData": b64(world.authorities_pem), **WHO},
        "rekorPublicKeyData": b64(public_pem(world.log_key)),
    } | changes


def by_root(world: SigstoreWorld, **fulcio: Any) -> dict[str, Any]:
    """The requirement with a trusted root."""
    members = {"trustedRootData": b64(world.trusted_root()), **WHO} | fulcio
    return {"type": "sigstoreSigned", "fulcio": members}


async def check(
    repository: Repository, requirement: dict[str, Any], held: dict[str, bytes] | None = None
) -> None:
    """Decide as a pull does."""
    policy = Policy.parse(json.dumps({"default": [requirement]}).encode())
    candidate = Candidate(
        reference=ImageReference.parse(REFERENCE), digests=(MANIFEST,), repository=repository
    )
    means = Means(keys=Sources(Resources(held or {})), lookaside=None, keys_end=True)
    await PolicyGate(policy, means).check(candidate, Deadline.after(50))


async def why_not(repository: Repository, requirement: dict[str, Any]) -> str:
    """The reason below the text that clients look for."""
    with pytest.raises(DeniedError) as caught:
        await check(repository, requirement)
    text, *causes = caught.value.causes()
    assert text == TEXT
    return ": ".join(causes)


def manifest_of(layer: dict[str, object]) -> bytes:
    """A manifest with one layer."""
    config = descriptor("application/vnd.oci.empty.v1+json", EMPTY)
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    return json.dumps(document).encode()


def signature_image(
    world: SigstoreWorld, signer: Signer, *, payload: bytes | None = None, **annotations: str | None
) -> Repository:
    """A repository with one signature in cosign's older form."""
    payload = cosign_payload(NAME, D) if payload is None else payload
    signature = sign(signer.key, payload)
    given = {
        "dev.cosignproject.cosign/signature": b64(signature),
        "dev.sigstore.cosign/certificate": signer.pem,
        "dev.sigstore.cosign/chain": certificate_pem(world.between.certificate),
        "dev.sigstore.cosign/bundle": world.promise(signer.pem, signature, payload),
    } | {f"dev.sigstore.cosign/{name}": value for name, value in annotations.items()}
    kept = {name: value for name, value in given.items() if value is not None}
    layer = descriptor(SIMPLE_SIGNING, payload, **kept)
    tag = D.replace(":", "-") + ".sig"
    return Repository({tag: manifest_of(layer)}, {str(layer["digest"]): payload})


def bundled(data: bytes) -> Repository:
    """A repository with one bundle that refers to the image."""
    layer = descriptor(BUNDLE, data)
    manifest = manifest_of(layer)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    referrer = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 3, "artifactType": BUNDLE}
    index = json.dumps({"manifests": [referrer]}).encode()
    return Repository({digest: manifest}, {str(layer["digest"]): data}, index)
