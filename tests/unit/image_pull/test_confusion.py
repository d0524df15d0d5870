"""Documents that say two things, or somewhere else: refused before a layer, in the peer's words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import GuestError
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.registry.server import Registry
from image_pull.manifest import OCI_INDEX, OCI_MANIFEST
from image_pull.registry.rules import RegistriesTable
from support.pulling import insecure, left_in_store, plain_puller, sha256

Document = dict[str, Any]
Change = Callable[[Document, Document], None]
"""Changes manifest and configuration in place."""

MANIFEST = "Errors happened when pulling image: failed to pull image manifest: "
LAYER = "Errors happened when pulling image: Failed to decode layer: "
SLASHES = "sha256:../../../../etc/passwd"
TRAVERSAL = "sha256:" + "/.." * 21 + "/"


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pipeline makes trees to be copied, not to be mounted."""
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


def two_layers() -> Image:
    return build_image(
        [Layer(entries=(Entry(kind=Kind.FILE, path=name, data=b"x"),)) for name in "ab"]
    )


async def failure_of(work: Path, registry: Registry) -> str:
    """Why `demo/app:v1` is not pulled; nothing of it may be left."""
    rules = msgspec.convert(insecure(registry.host), RegistriesTable)
    bundle = work.parent / "bundle"
    async with plain_puller(work, registry_config=rules) as puller:
        reference = f"{registry.host}/demo/app:v1"
        with pytest.raises(GuestError) as caught:
            await puller.pull(reference, bundle, deadline=Deadline.after(40))
    assert left_in_store(work) == []
    assert not (bundle / "rootfs").exists()
    return str(caught.value)


def layer_digest(text: str) -> Change:
    def change(manifest: Document, config: Document) -> None:
        manifest["layers"][0]["digest"] = text

    return change


def config_digest(text: str) -> Change:
    def change(manifest: Document, config: Document) -> None:
        manifest["config"]["digest"] = text

    return change


def diff_id(text: str) -> Change:
    def change(manifest: Document, config: Document) -> None:
        config["rootfs"]["diff_ids"][0] = text

    return change


def no_layers(manifest: Document, config: Document) -> None:
    manifest["layers"] = []


def no_diff_ids(manifest: Document, config: Document) -> None:
    config["rootfs"]["diff_ids"] = []


def one_diff_id_more(manifest: Document, config: Document) -> None:
    config["rootfs"]["diff_ids"].append(config["rootfs"]["diff_ids"][0])


def twice_in_two_sizes(manifest: Document, config: Document) -> None:
    manifest["layers"][1] = {**manifest["layers"][0], "size": 1}
    config["rootfs"]["diff_ids"][1] = config["rootfs"]["diff_ids"][0]


def twice_in_two_types(manifest: Document, config: Document) -> None:
    plain = manifest["layers"][0]["mediaType"].removesuffix("+gzip")
    manifest["layers"][1] = {**manifest["layers"][0], "mediaType": plain}
    config["rootfs"]["diff_ids"][1] = config["rootfs"]["diff_ids"][0]


def twice_with_two_contents(manifest: Document, config: Document) -> None:
    manifest["layers"][1] = manifest["layers"][0]


def both_shapes(manifest: Document, config: Document) -> None:
    manifest["manifests"] = []


def index_by_name(manifest: Document, config: Document) -> None:
    manifest["mediaType"] = OCI_INDEX


def other_architecture(manifest: Document, config: Document) -> None:
    config["architecture"] = "s390x"


def other_system(manifest: Document, config: Document) -> None:
    config["os"] = "windows"


MISMATCH = "Internal error: Pulled number of layers mismatch with image config diff_ids"
CASES: dict[str, tuple[Change, str]] = {
    "both shapes": (both_shapes, MANIFEST + "manifest is neither an image manifest nor an index"),
    "index by name": (index_by_name, MANIFEST + "manifest does not have the shape of"),
    "architecture": (other_architecture, "image is for architecture s390x, not amd64"),
    "system": (other_system, "Failed to create bundle: image is for"),
    "no layers": (no_layers, MISMATCH),
    "no diff_ids": (no_diff_ids, MISMATCH),
    "one diff_id more": (one_diff_id_more, MISMATCH),
    "two sizes": (twice_in_two_sizes, "is listed twice and differently"),
    "two types": (twice_in_two_types, "is listed twice and differently"),
    "two contents": (twice_with_two_contents, "is listed twice and differently"),
    "layer with slashes": (layer_digest(SLASHES), MANIFEST),
    "layer of 64 characters": (layer_digest(TRAVERSAL), MANIFEST),
    "layer in capitals": (layer_digest("sha256:" + "AB" * 32), MANIFEST),
    "layer without algorithm": (layer_digest("ab" * 32), MANIFEST),
    "config with slashes": (config_digest(SLASHES), MANIFEST),
    "config of 64 characters": (config_digest(TRAVERSAL), MANIFEST),
    "diff_id with slashes": (
        diff_id(SLASHES),
        f"Unsupported uncompressed digest format: {SLASHES}",
    ),
    "diff_id of 64 characters": (
        diff_id(TRAVERSAL),
        f"Unsupported uncompressed digest format: {TRAVERSAL}",
    ),
    "empty diff_id": (diff_id(""), "Unsupported uncompressed digest format:"),
}


@pytest.mark.parametrize("name", CASES)
async def test_an_image_that_contradicts_itself_is_refused_before_any_layer(
    name: str, tmp_path: Path
) -> None:
    change, text = CASES[name]
    image = two_layers()
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    body = json.dumps(manifest)
    change(manifest, config)
    async with Registry() as registry:
        registry.push_image("demo/app:v1", image)
        data = json.dumps(config).encode()
        if manifest["config"] == json.loads(body)["config"]:
            manifest["config"] |= {"digest": registry.put_blob("demo/app", data), "size": len(data)}
        registry.put_manifest("demo/app", "v1", OCI_MANIFEST, json.dumps(manifest).encode())
        failure = await failure_of(tmp_path / "work", registry)
        assert text in failure
        assert failure.startswith("Image Pull error: Failed to pull image ")
        assert registry.requests.count("GET", r"/blobs/") <= 1  # the configuration
        assert not any(".." in str(each.path) for each in registry.requests)


@pytest.mark.parametrize("digest", [SLASHES, TRAVERSAL])
async def test_a_digest_with_slashes_in_an_index_is_asked_of_nobody(
    digest: str, tmp_path: Path
) -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": platform}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    async with Registry() as registry:
        registry.put_manifest("demo/app", "v1", OCI_INDEX, json.dumps(index).encode())
        assert MANIFEST in await failure_of(tmp_path / "work", registry)
        assert not any(".." in str(each.path) for each in registry.requests)


async def test_an_index_that_leads_to_another_kind_or_size_is_refused(tmp_path: Path) -> None:
    image = two_layers()
    platform = {"os": "linux", "architecture": "amd64"}
    async with Registry() as registry:
        registry.push_image("demo/app:good", image)
        entry = {"mediaType": OCI_MANIFEST, "digest": image.manifest_digest, "platform": platform}
        for size in (len(image.manifest) - 1, len(image.manifest) + 1):
            index = {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [entry | {"size": size}],
            }
            registry.put_manifest("demo/app", "v1", OCI_INDEX, json.dumps(index).encode())
            assert "its index says" in await failure_of(tmp_path / "work", registry)


async def test_the_same_bytes_are_no_manifest_under_the_name_of_an_index(tmp_path: Path) -> None:
    image = two_layers()
    async with Registry() as registry:
        registry.push_image("demo/app:v1", image)
        registry.faults.add(
            Fault(
                path="/manifests/v1",
                status=200,
                body=image.manifest,
                headers={
                    "Content-Type": OCI_INDEX,
                    "Docker-Content-Digest": sha256(image.manifest),
                },
            )
        )
        assert MANIFEST in await failure_of(tmp_path / "work", registry)
        assert registry.requests.count("GET", r"/blobs/") == 0


async def test_a_layer_s_foreign_address_is_never_asked(tmp_path: Path) -> None:
    image = two_layers()
    manifest = json.loads(image.manifest)
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    async with Registry() as registry, Registry() as elsewhere:
        registry.push_image("demo/app:v1", image)
        missing = f"sha256:{'ab' * 32}"
        address = f"http://{elsewhere.host}/v2/demo/app/blobs/{missing}"
        manifest["layers"][0] |= {"mediaType": foreign, "digest": missing, "urls": [address]}
        data = json.dumps(manifest).encode()
        registry.put_manifest("demo/app", "v1", OCI_MANIFEST, data)
        failure = await failure_of(tmp_path / "work", registry)
        assert missing in failure
        assert list(elsewhere.requests) == []
        assert registry.requests.count("GET", rf"/blobs/{missing}") >= 1
