"""`sigstoreSigned`: signature images and bundles in the registry, and what is wrong with others."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from guest.crypto.digest import Digest, HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DeniedError
from guest.http import HttpClient
from guest_simulator.registry.server import Registry
from image_pull.reference import ImageReference
from image_pull.registry.client import RegistryClient
from image_pull.registry.transport import Transport
from image_pull.signature.evaluation import Candidate, Means, SignatureRepository
from image_pull.signature.gate import PolicyGate
from image_pull.signature.policy import Policy
from image_pull.sources import Sources
from support.pulling import Resources
from support.signing import (
    OpensslKey,
    cosign_payload,
    make_bundle,
    push_bundle,
    push_signatures,
)

TEXT = "Image policy rejected: Denied by policy: rejected by `sigstoreSigned` rule"
NAME = "t/base"
MANIFEST = HashAlgorithm.SHA256.of(b"manifest")
INDEX = HashAlgorithm.SHA256.of(b"index")
D = str(MANIFEST)


class Place:
    """A registry and an image in it."""

    def __init__(self, registry: Registry, repository: SignatureRepository) -> None:
        self.registry = registry
        self.repository = repository
        self.name = f"{registry.host}/{NAME}"

    async def check(self, *digests: Digest, tag: str = "v1", **members: object) -> None:
        requirement = {"type": "sigstoreSigned", **members}
        policy = Policy.parse(json.dumps({"default": [requirement]}).encode())
        candidate = Candidate(
            reference=ImageReference.parse(f"{self.name}:{tag}"),
            digests=digests or (MANIFEST,),
            repository=self.repository,
        )
        means = Means(keys=Sources(Resources()), lookaside=None, keys_end=True)
        await PolicyGate(policy, means).check(candidate, Deadline.after(20))

    async def why_not(self, *digests: Digest, **members: Any) -> str:
        """The reason below the text that clients look for."""
        with pytest.raises(DeniedError) as caught:
            await self.check(*digests, **members)
        text, *causes = caught.value.causes()
        assert text == TEXT
        return ": ".join(causes)

    def push(self, *signatures: tuple[bytes, str], digest: str = D) -> None:
        push_signatures(self.registry, NAME, digest, list(signatures))


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    http = HttpClient(user_agent="test")
    try:
        async with Registry() as registry:
            reference = ImageReference.parse(f"{registry.host}/{NAME}:v1")
            client = RegistryClient(Transport(http), reference, "http", None)
            yield Place(registry, client)
    finally:
        await http.close()


@pytest.fixture
def key(tmp_path: Path) -> OpensslKey:
    return OpensslKey.make(tmp_path / "key")


def signed(key: OpensslKey, payload: bytes) -> tuple[bytes, str]:
    return payload, base64.b64encode(key.sign(payload)).decode()


async def test_the_specifications_signature_is_good_with_pem_and_with_base64_of_it(
    vectors: Path,
) -> None:
    whole = json.loads((vectors / "image_pull" / "signatures.json").read_text())
    vector, digest = whole["cosign"], whole["manifest_digest"]
    text = vector["signature"]
    pem = vector["public_key"]
    async with place() as at:
        for written in (text, text[:40] + "\r\n" + text[40:] + "\n"):
            at.push((vector["payload"].encode(), written), digest=digest)
            for data in (pem, base64.b64encode(pem.encode()).decode()):
                await at.check(Digest.parse(digest), keyData=data)
                await at.check(INDEX, Digest.parse(digest), keyData=data)
                repository = {
                    "type": "exactRepository",
                    "dockerRepository": "127.0.0.1:5077/t/base",
                }
                await at.check(Digest.parse(digest), keyData=data, signedIdentity=repository)
        at.push((vector["payload"].replace("null", "{}").encode(), text), digest=digest)
        await at.why_not(Digest.parse(digest), keyData=pem)


@pytest.mark.openssl
@pytest.mark.spec("image-pull", 29)
async def test_a_second_signer_does_not_spoil_and_another_images_signature_does_not_help(
    key: OpensslKey, tmp_path: Path
) -> None:
    stranger = OpensslKey.make(tmp_path / "stranger")
    mine: dict[str, Any] = {"keyData": key.public, "signedIdentity": {"type": "matchRepository"}}
    async with place() as at:
        good = signed(key, cosign_payload(at.name, D))
        theirs = signed(stranger, cosign_payload("elsewhere.io/x", D))
        for both in ((good, theirs), (theirs, good)):
            at.push(*both)
            await at.check(**mine)
        at.push(theirs)
        assert "not by the policy's key" in await at.why_not(**mine)
        at.push(signed(key, cosign_payload(at.name, str(INDEX))))
        assert f"signature is for {INDEX}" in await at.why_not(**mine)
        # The parts of two signatures do not make one.
        at.push(signed(key, cosign_payload("elsewhere.io/x", D)), theirs)
        assert "Match reference failed." in await at.why_not(**mine)


@pytest.mark.openssl
async def test_signatures_that_are_not_good_are_refused(key: OpensslKey) -> None:
    async with place() as at:
        payload = cosign_payload(at.name, D)
        good = signed(key, payload)
        bad = {
            "type": signed(key, cosign_payload(at.name, D, type="atomic container signature")),
            "member": signed(key, cosign_payload(at.name, D, more=1)),
            "payload": (payload + b" ", good[1]),
            "signature": (payload, good[1][:-4]),
            "base64": (payload, "!" + good[1]),
            "empty": (payload, ""),
        }
        for each in bad.values():
            at.push(each)
            await at.why_not(keyData=key.public)
        at.push(good, *bad.values())
        await at.check(keyData=key.public)
        at.push()
        assert await at.why_not(keyData=key.public) == "Can not find any signatures."
        for members in ({"keyData": "x"}, {"keyPath": "/missing"}, {"keyPath": "kbs:///no"}, {}):
            await at.why_not(**members)


@pytest.mark.openssl
async def test_any_of_several_keys_will_do(key: OpensslKey, tmp_path: Path) -> None:
    path = tmp_path / "pem"
    path.write_text(key.public)
    stranger = OpensslKey.make(tmp_path / "stranger").public
    async with place() as at:
        at.push(signed(key, cosign_payload(at.name, D)))
        await at.check(keyPath=str(path))
        await at.check(keyPath=f"file://{path}")
        await at.check(keyDatas=[stranger, key.public])
        await at.why_not(keyDatas=[stranger])
        await at.why_not(keyPaths=[str(path), str(tmp_path / "missing")])


@pytest.mark.openssl
async def test_a_layer_of_another_type_is_passed_over_and_an_index_is_refused(
    key: OpensslKey,
) -> None:
    async with place() as at:
        at.push(signed(key, cosign_payload(at.name, D)))
        tag = D.replace(":", "-") + ".sig"
        media_type, body = at.registry.get_manifest(NAME, tag)
        document = json.loads(body)
        sbom = {**document["layers"][0], "mediaType": "application/spdx+json"}
        document["layers"].insert(0, sbom)
        at.registry.put_manifest(NAME, tag, media_type, json.dumps(document).encode())
        await at.check(keyData=key.public)
        document["layers"] = [sbom]
        at.registry.put_manifest(NAME, tag, media_type, json.dumps(document).encode())
        await at.why_not(keyData=key.public)
        media_type = "application/vnd.oci.image.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": []}
        at.registry.put_manifest(NAME, tag, media_type, json.dumps(index).encode())
        assert "index" in await at.why_not(keyData=key.public)


@pytest.mark.openssl
@pytest.mark.parametrize("has_referrers", [True, False])
async def test_a_bundle_that_refers_to_the_image_is_a_signature(
    has_referrers: bool, key: OpensslKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = OpensslKey.make(tmp_path / "stranger")
    async with place() as at:
        if not has_referrers:
            _only_the_tag(at, monkeypatch)
        slsa = "https://slsa.dev/provenance/v1"
        bad = (make_bundle(stranger, D), make_bundle(key, D, slsa), make_bundle(key, str(INDEX)))
        for each in (*bad, b"junk"):
            push_bundle(at.registry, NAME, D, each)
        if not has_referrers:
            _tag_referrers(at)
        await at.why_not(keyData=key.public)
        push_bundle(at.registry, NAME, D, make_bundle(key, D))
        if not has_referrers:
            _tag_referrers(at)
        await at.check(keyData=key.public)
        await at.check(INDEX, MANIFEST, keyData=key.public)
        await at.why_not(INDEX, keyData=key.public)
        await at.why_not(keyData=key.public, signedIdentity={"type": "matchRepository"})


def _only_the_tag(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry does not know the referrers interface."""
    from guest_simulator.registry.replies import problem

    monkeypatch.setattr(at.registry, "_referrers", lambda *_: problem(404, "UNSUPPORTED", ""))


def _tag_referrers(at: Place) -> None:
    """What cosign keeps by hand where the registry has no such interface."""
    body = Registry._referrers(at.registry, NAME, D).body
    assert isinstance(body, bytes)
    tag = D.replace(":", "-")
    at.registry.put_manifest(NAME, tag, "application/vnd.oci.image.index.v1+json", body)
