"""Signed images, whole: the puller, the simulator's registry, signatures by gpg and openssl."""

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import DeniedError, GuestError, PlatformError, UnavailableError
from guest_simulator.cert import CertificateAuthority
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image, build_index
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry
from image_pull.registry.rules import RegistriesTable
from support import vector_image
from support.pulling import Resources, insecure, plain_puller
from support.signing import (
    Gnupg,
    OpensslKey,
    cosign_payload,
    push_signatures,
    simple_payload,
)

DENIED = r"error: Image policy rejected: Denied by policy: rejected by `%s` rule"
LAYERS = r"/blobs/"


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pipeline makes trees to be copied, not to be mounted."""
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


@pytest.fixture
def gnupg(short_tmp: Path) -> Iterator[Gnupg]:
    made = Gnupg(short_tmp)
    yield made
    made.close()


def rules(registry: Registry) -> RegistriesTable:
    return msgspec.convert(insecure(registry.host), RegistriesTable)


def policy(kind: str, **members: object) -> str:
    named = {"signedBy": {"keyType": "GPGKeys"}}.get(kind, {})
    return json.dumps({"default": [{"type": kind, **named, **members}]})


def an_image(architecture: str = "amd64") -> Image:
    entry = Entry(kind=Kind.FILE, path="a", data=architecture.encode())
    return build_image([Layer(entries=(entry,))], architecture=architecture)


class Pulls:
    """Pulls by one configuration, each into a bundle of its own."""

    def __init__(self, directory: Path, registry: Registry, **table: Any) -> None:
        self._directory = directory
        self._registry = registry
        self._table = table

    async def pull(self, name: str) -> str:
        """With a store of its own."""
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        table = {"registry_config": rules(self._registry), **self._table}
        async with plain_puller(directory / "work", **table) as puller:
            image = f"{self._registry.host}/{name}"
            return await puller.pull(image, directory / "bundle", deadline=Deadline.after(40))

    async def denied(self, name: str, kind: str) -> None:
        """The text that clients look for, and no layer fetched."""
        before = len(self._registry.requests.matching("GET", LAYERS))
        with pytest.raises(DeniedError, match=DENIED % kind):
            await self.pull(name)
        fetched = self._registry.requests.matching("GET", LAYERS)[before:]
        assert not any(each.path.endswith(digest) for each in fetched for digest in self._layers())

    def _layers(self) -> list[str]:
        found = []
        for manifest in self._registry.repositories.manifests("t/base").values():
            layers = json.loads(manifest.data).get("layers", [])
            found += [each["digest"] for each in layers if "layer" in each["mediaType"]]
        return found


@pytest.mark.spec("image-pull", 28)
async def test_the_specifications_cosign_signature_lets_its_image_run_however_it_is_named(
    vectors: Path, tmp_path: Path
) -> None:
    whole = json.loads((vectors / "image_pull" / "signatures.json").read_text())
    vector, digest = whole["cosign"], whole["manifest_digest"]
    text, pem = vector["signature"], vector["public_key"]
    async with Registry() as registry:
        assert vector_image.push(registry, vectors)[0] == digest
        for written in (text, text[:50] + "\n" + text[50:]):
            signature = (vector["payload"].encode(), written)
            push_signatures(registry, "t/base", digest, [signature])
            for data in (pem, base64.b64encode(pem.encode()).decode()):
                text_of_policy = policy("sigstoreSigned", keyData=data)
                pulls = Pulls(tmp_path, registry, image_security_policy=text_of_policy)
                for name in ("t/base", f"t/base@{digest}", "t/base:index"):
                    assert await pulls.pull(name) == digest


@pytest.mark.openssl
async def test_a_signature_of_the_index_or_of_the_manifest_is_enough_and_none_is_denied(
    tmp_path: Path,
) -> None:
    key = OpensslKey.make(tmp_path / "key")
    access = Access(mode=Mode.BEARER, users={"user": "right"})
    credentials = tmp_path / "auth.json"
    async with Registry(access=access) as registry:
        entry = {"username": "user", "password": "right"}
        credentials.write_text(json.dumps({"auths": {registry.host: entry}}))
        mine = an_image()
        index = build_index([an_image("arm64"), mine])
        registry.push_image("t/base:v1", index)
        pulls = Pulls(
            tmp_path,
            registry,
            image_security_policy=policy("sigstoreSigned", keyData=key.public),
            authenticated_registry_credentials_uri=str(credentials),
        )
        await pulls.denied("t/base:v1", "sigstoreSigned")
        for digest in (index.manifest_digest, mine.manifest_digest):
            payload = cosign_payload(f"{registry.host}/t/base", digest)
            signature = (payload, base64.b64encode(key.sign(payload)).decode())
            push_signatures(registry, "t/base", digest, [signature])
            assert await pulls.pull("t/base:v1") == mine.manifest_digest
            tag = digest.replace(":", "-") + ".sig"
            assert registry.repositories.delete_manifest("t/base", tag)
            await pulls.denied("t/base:v1", "sigstoreSigned")


@pytest.mark.gpg
async def test_simple_signing_lets_an_image_run_under_the_name_that_was_signed(
    tmp_path: Path, gnupg: Gnupg
) -> None:
    pytest.importorskip("pysequoia")
    gnupg.key("one")
    shelf = tmp_path / "shelf"
    async with Registry() as registry:
        image = an_image()
        registry.push_image("t/base:v1", image)
        registry.push_image("t/base:v2", image)
        digest = image.manifest_digest
        sigstore = json.dumps({"docker": {registry.host: {"sigstore": f"file://{shelf}"}}})
        resources = Resources(
            {"kbs:///a/b/ring": gnupg.export(), "kbs:///a/b/sigstore": sigstore.encode()}
        )
        text = policy("signedBy", keyPath="kbs:///a/b/ring").encode()
        resources.held["kbs:///a/b/policy"] = text
        pulls = Pulls(
            tmp_path,
            registry,
            resources=resources,
            image_security_policy_uri="kbs:///a/b/policy",
            sigstore_config_uri="kbs:///a/b/sigstore",
        )
        await pulls.denied("t/base:v1", "signedBy")
        folder = shelf / f"t/base@{digest.replace(':', '=')}"
        folder.mkdir(parents=True)
        payload = simple_payload(f"{registry.host}/t/base:v1", digest)
        (folder / "signature-1").write_bytes(gnupg.sign("one", payload))
        assert await pulls.pull("t/base:v1") == digest
        assert await pulls.pull(f"t/base@{digest}") == digest
        await pulls.denied("t/base:v2", "signedBy")
        resources.held["kbs:///a/b/ring"] = b"junk"
        await pulls.denied("t/base:v1", "signedBy")
        pulls = Pulls(tmp_path, registry, image_security_policy=text.decode())
        await pulls.denied("t/base:v1", "signedBy")


async def test_a_sigstore_configuration_that_is_not_understood_fails_every_pull(
    tmp_path: Path,
) -> None:
    further = tmp_path / "work/image-security/simple_signing/sigstore_config"
    further.mkdir(parents=True)
    start = r"^Image Client error: Initialize signature validator failed: "
    good = "default-docker: {sigstore: 'file:///a'}"
    (further / "x.yaml").write_text("default-docker: {sigstore: 'file:///b'}")
    (further / "ignored.txt").write_text("junk: [")
    for text, reason in (
        ("junk", "Invalid simple signing sigstore config"),
        ("default-docker: {}", "Invalid simple signing sigstore config"),
        (good, "Failed to update sigstore config"),
    ):
        async with plain_puller(tmp_path / "work", sigstore_config=text) as puller:
            with pytest.raises(PlatformError, match=start + reason):
                await puller.pull("a.io/b", tmp_path / "bundle", deadline=Deadline.after(5))
    (further / "x.yaml").write_text(good)
    async with plain_puller(tmp_path / "work", sigstore_config=good) as puller:
        with pytest.raises(GuestError, match=r"Failed to pull image 127.0.0.1:1/b"):
            await puller.pull("127.0.0.1:1/b", tmp_path / "bundle", deadline=Deadline.after(20))


@pytest.mark.openssl
@pytest.mark.spec("image-pull", 18)
async def test_a_private_authority_opens_registry_token_server_and_signatures(
    tmp_path: Path,
) -> None:
    key = OpensslKey.make(tmp_path / "key")
    authority = CertificateAuthority.create()
    access = Access(mode=Mode.BEARER, users={"user": "right"})
    credentials = tmp_path / "auth.json"
    tls = authority.issue("127.0.0.1", "localhost").context()
    async with Registry(access=access, tls=tls) as registry:
        entry = {"username": "user", "password": "right"}
        credentials.write_text(json.dumps({"auths": {registry.host: entry}}))
        image = an_image()
        registry.push_image("t/base:v1", image)
        payload = cosign_payload(f"{registry.host}/t/base", image.manifest_digest)
        signature = (payload, base64.b64encode(key.sign(payload)).decode())
        push_signatures(registry, "t/base", image.manifest_digest, [signature])
        table: dict[str, Any] = {
            "registry_config": RegistriesTable(),
            "image_security_policy": policy("sigstoreSigned", keyData=key.public),
            "authenticated_registry_credentials_uri": str(credentials),
        }
        pulls = Pulls(tmp_path, registry, roots=(authority.pem.decode(),), **table)
        assert await pulls.pull("t/base:v1") == image.manifest_digest
        for path in ("/token", r"\.sig", "/manifests/v1", "/blobs/"):
            assert registry.requests.matching("GET", path)
        with pytest.raises(UnavailableError):
            await Pulls(tmp_path, registry, **table).pull("t/base:v1")


@pytest.mark.openssl
async def test_the_name_that_was_asked_for_counts_too_where_that_is_configured(
    tmp_path: Path,
) -> None:
    key = OpensslKey.make(tmp_path / "key")
    async with Registry() as registry:
        image = an_image()
        registry.push_image("t/base:v1", image)
        rule = {"prefix": "origin.io/x", "location": f"{registry.host}/t", "insecure": True}
        rule_table = msgspec.convert({"registry": [rule]}, RegistriesTable)
        accepted = {registry.host: [{"type": "insecureAcceptAnything"}]}
        named = {"type": "exactRepository", "dockerRepository": "origin.io/x/base"}
        signed = {"type": "sigstoreSigned", "keyData": key.public, "signedIdentity": named}
        document = {"default": [signed], "transports": {"docker": accepted}}

        async def pull(number: int, both: bool) -> str:
            async with plain_puller(
                tmp_path / f"work-{number}",
                registry_config=rule_table,
                image_security_policy=json.dumps(document),
                evaluate_original_reference=both,
            ) as puller:
                bundle = tmp_path / f"bundle-{number}"
                return await puller.pull("origin.io/x/base:v1", bundle, deadline=Deadline.after(40))

        assert await pull(1, both=False) == image.manifest_digest
        with pytest.raises(DeniedError, match=DENIED % "sigstoreSigned"):
            await pull(2, both=True)
        payload = cosign_payload("origin.io/x/base", image.manifest_digest)
        signature = (payload, base64.b64encode(key.sign(payload)).decode())
        push_signatures(registry, "t/base", image.manifest_digest, [signature])
        assert await pull(3, both=True) == image.manifest_digest
