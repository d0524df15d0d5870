"""Where the puller looks, and what it says when it looked in vain."""

import base64
import json
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError, UnauthenticatedError, UnreachableError
from guest.http import HttpClient
from guest_simulator.cert import CertificateAuthority
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.registry.access import Access, Mode
from guest_simulator.registry.server import Registry
from image_pull.config import CREDENTIALS_VARIABLE, ImageConfig, with_environment
from image_pull.manifest import OCI_INDEX, OCI_MANIFEST
from image_pull.registry.rules import RegistriesTable
from support.pulling import insecure, plain_puller


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pipeline makes trees to be copied, not to be mounted."""
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


def image(data: bytes = b"x") -> Image:
    return build_image([Layer(entries=(Entry(kind=Kind.FILE, path="a", data=data),))])


def table(**document: object) -> RegistriesTable:
    return msgspec.convert(document, RegistriesTable)


async def pull(base: Path, reference: str, **settings: object) -> str:
    async with plain_puller(base / "work", **settings) as puller:  # type: ignore[arg-type]  # free
        return await puller.pull(reference, base / "bundle", deadline=Deadline.after(40))


@pytest.mark.spec("image-pull", 13)
async def test_a_blocked_image_is_refused_with_the_peers_text(tmp_path: Path) -> None:
    rules = table(registry=[{"location": "q.io", "blocked": True}])
    with pytest.raises(InvalidInputError) as caught:
        await pull(tmp_path, "q.io/a", registry_config=rules)
    assert str(caught.value).startswith(
        "Image Pull error: failed to compose a legal image reference with given registry "
        "configuration"
    )


@pytest.mark.spec("image-pull", 14)
async def test_the_next_place_is_tried_and_in_the_end_all_are_named(tmp_path: Path) -> None:
    async with Registry() as registry:
        digest = registry.push_image("mirror/app:v1", image())
        mirrors = [
            {"location": "127.0.0.1:1", "insecure": True},
            {"location": f"{registry.host}/nothing", "insecure": True},
            {"location": f"{registry.host}/mirror", "insecure": True},
        ]
        rule = {"prefix": "q.example/x", "location": "127.0.0.1:2", "insecure": True}
        rules = table(registry=[{**rule, "mirror": mirrors}])
        assert await pull(tmp_path / "1", "q.example/x/app:v1", registry_config=rules) == digest
        rules = table(registry=[{**rule, "mirror": mirrors[:2]}])
        with pytest.raises(GuestError) as caught:
            await pull(tmp_path / "2", "q.example/x/app:v1", registry_config=rules)
        first, second, third = str(caught.value).split("\n")
        assert first.startswith(
            "Image Pull error: Failed to pull image q.example/x/app:v1 from all mirror/mapping "
            "locations or original location: image: 127.0.0.1:1/app:v1, error: Errors happened "
            "when pulling image: failed to pull image manifest: "
        )
        assert second.startswith(f"image: {registry.host}/nothing/app:v1, error: ")
        assert third.startswith("image: 127.0.0.1:2/app:v1, error: ")


async def issued_token(registry: Registry) -> str:
    """A token as the registry gives it for the right password."""
    client = HttpClient(user_agent="test")
    basic = "Basic " + base64.b64encode(b"user:right").decode()
    url = f"{registry.url}/token?service=guest-simulator&scope=repository:demo/app:pull"
    answer = await client.request(
        "GET", url, headers=(("Authorization", basic),), deadline=Deadline.after(10), max_body=9999
    )
    await client.close()
    return str(json.loads(answer.body)["token"])


@pytest.mark.spec("image-pull", 16)
async def test_tokens_passwords_and_nothing_at_all_open_what_they_should(tmp_path: Path) -> None:
    for mode in (Mode.NONE, Mode.BASIC, Mode.BEARER):
        async with Registry(access=Access(mode=mode, users={"user": "right"})) as registry:
            digest = registry.push_image("demo/app:v1", image())
            rules = msgspec.convert(insecure(registry.host), RegistriesTable)
            reference = f"{registry.host}/demo/app:v1"
            for password in ("right", "wrong", None):
                base = tmp_path / f"{mode}-{password}"
                base.mkdir()
                settings: dict[str, object] = {"registry_config": rules}
                if password is not None:
                    auth = base64.b64encode(f"user:{password}\n".encode()).decode()
                    file = base / "auth.json"
                    file.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
                    settings["authenticated_registry_credentials_uri"] = str(file)
                if password == "right" or mode is Mode.NONE:
                    assert await pull(base, reference, **settings) == digest
                    continue
                with pytest.raises(UnauthenticatedError, match=r"Not authorized"):
                    await pull(base, reference, **settings)
            if mode is Mode.BEARER:
                body = json.dumps({"access_token": await issued_token(registry)}).encode()
                registry.faults.add(Fault(path="/token", body=body))
                settings["authenticated_registry_credentials_uri"] = str(
                    tmp_path / f"{mode}-right" / "auth.json"
                )
                assert await pull(tmp_path / "access", reference, **settings) == digest


@pytest.mark.spec("image-pull", 8)
async def test_the_variable_names_the_credentials_and_an_empty_file_means_anonymous(
    tmp_path: Path,
) -> None:
    empty = tmp_path / "auth.json"
    empty.write_text('{"auths": {}}')
    configured = ImageConfig(authenticated_registry_credentials_uri="file:///does/not/exist")
    config = with_environment(configured, {CREDENTIALS_VARIABLE: f"file://{empty}"})
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", image())
        rules = msgspec.convert(insecure(registry.host), RegistriesTable)
        found = await pull(
            tmp_path,
            f"{registry.host}/demo/app:v1",
            registry_config=rules,
            authenticated_registry_credentials_uri=config.authenticated_registry_credentials_uri,
        )
        assert found == digest
        assert not any("authorization" in each.headers for each in registry.requests)


async def test_a_registry_of_a_private_authority_is_trusted_only_when_told(
    tmp_path: Path,
) -> None:
    authority = CertificateAuthority.create()
    access = Access(mode=Mode.BEARER, users={"user": "right"})
    tls = authority.issue("127.0.0.1", "localhost").context()
    async with Registry(tls=tls, access=access) as registry:
        digest = registry.push_image("demo/app:v1", image())
        auth = base64.b64encode(b"user:right").decode()
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        reference = f"{registry.host}/demo/app:v1"
        settings = {"authenticated_registry_credentials_uri": str(file)}
        with pytest.raises(UnreachableError, match=r"CERTIFICATE_VERIFY_FAILED"):
            await pull(tmp_path, reference, **settings)
        roots = (authority.pem.decode(),)
        assert await pull(tmp_path, reference, roots=roots, **settings) == digest
        assert registry.requests.count("GET", "/token") == 1
        with pytest.raises(GuestError, match=r"error: Internal error: a trusted certificate is"):
            await pull(tmp_path / "2", reference, roots=("no PEM",), **settings)


def index_of(*digests: tuple[str, int], media_type: str = OCI_MANIFEST, **platform: str) -> bytes:
    entries = [
        {
            "mediaType": media_type,
            "digest": digest,
            "size": size,
            "platform": platform or {"os": "linux", "architecture": "amd64"},
        }
        for digest, size in digests
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


@pytest.mark.spec("image-pull", 20)
async def test_documents_that_are_no_image_for_this_guest_are_refused_with_the_peers_texts(
    tmp_path: Path,
) -> None:
    async with Registry() as registry:
        made = image()
        registry.push_image("demo/app:good", made)
        manifest = json.loads(made.manifest)
        one = index_of((made.manifest_digest, len(made.manifest)))
        nested = [one]
        for _ in range(2):
            digest = registry.put_manifest("demo/app", "below", OCI_INDEX, nested[-1])
            nested.append(index_of((digest, len(nested[-1])), media_type=OCI_INDEX))
        cases = {
            "Unsupported schema version: 1": {**manifest, "schemaVersion": 1},
            "Unsupported media type: a/b": {**manifest, "mediaType": "a/b"},
            "neither an image manifest nor an index, or both": {**manifest, "manifests": []},
            "Image manifest not found: no entry found in image index manifest matching client's "
            "default platform": json.loads(
                index_of((made.manifest_digest, 1), os="linux", architecture="s390x")
            ),
            "Image manifest not found: received Image Index manifest instead": json.loads(
                nested[2]
            ),
        }
        rules = msgspec.convert(insecure(registry.host), RegistriesTable)
        for number, (text, document) in enumerate(cases.items()):
            media_type = OCI_INDEX if "manifests" in document else OCI_MANIFEST
            body = json.dumps(document).encode()
            armed = registry.faults.add(
                Fault(
                    path=f"/manifests/v{number}",
                    status=200,
                    body=body,
                    headers={"Content-Type": media_type, "Docker-Content-Digest": ""},
                )
            )
            with pytest.raises(GuestError) as caught:
                await pull(
                    tmp_path / f"{number}",
                    f"{registry.host}/demo/app:v{number}",
                    registry_config=rules,
                )
            assert f"failed to pull image manifest: {text}" in str(caught.value).replace(
                "manifest is neither", "neither"
            )
            assert armed.hits == 1
        for level in (0, 1):
            registry.put_manifest("demo/app", "nested", OCI_INDEX, nested[level])
            found = await pull(
                tmp_path / f"nested{level}",
                f"{registry.host}/demo/app:nested",
                registry_config=rules,
            )
            assert found == made.manifest_digest
