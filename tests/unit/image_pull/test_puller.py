"""The puller against the simulator's registry: what it makes, and what it leaves when it fails."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
)
from guest_simulator.faults import Fault
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image, build_index
from guest_simulator.registry.server import Registry
from image_pull.puller import ImagePuller
from support.pulling import PlainPipeline, insecure, left_in_store, plain_puller, sha256

BLOBS = r"/blobs/"


def file(path: str, data: bytes = b"content") -> Entry:
    return Entry(kind=Kind.FILE, path=path, data=data)


def two_layers(**settings: object) -> Image:
    lower = Layer(entries=(file("a", b"lower"), file("b", os.urandom(200_000))))
    upper = Layer(entries=(file("a", b"upper"), file("dir/c")))
    return build_image([lower, upper], **settings)  # type: ignore[arg-type]


async def pull(
    puller: ImagePuller, registry: Registry, bundle: Path, name: str = "demo/app:v1"
) -> str:
    return await puller.pull(f"{registry.host}/{name}", bundle, deadline=Deadline.after(40))


def a(bundle: Path) -> bytes:
    return (bundle / "rootfs" / "a").read_bytes()


def nothing_at(bundle: Path) -> bool:
    return not bundle.exists() or list(bundle.iterdir()) == []


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def blob_fetches(registry: Registry) -> int:
    return registry.requests.count("GET", BLOBS)


@pytest.fixture(autouse=True)
def _no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain pipeline makes trees to be copied, not to be mounted."""
    monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")


async def test_a_pull_gives_the_manifest_digest_a_root_file_system_and_config_json(
    work: Path, bundle: Path
) -> None:
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", two_layers())
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            assert not work.exists()
            assert await pull(puller, registry, bundle) == digest
        assert a(bundle) == b"upper"
        assert json.loads((bundle / "config.json").read_bytes())["root"]["path"] == "rootfs"
        assert left_in_store(work) == []


def _rules(registry: Registry) -> object:
    import msgspec

    from image_pull.registry.rules import RegistriesTable

    return msgspec.convert(insecure(registry.host), RegistriesTable)


async def test_an_index_gives_the_digest_of_the_platforms_manifest(
    work: Path, bundle: Path
) -> None:
    mine, other = two_layers(), two_layers(architecture="arm64")
    async with Registry() as registry:
        registry.push_image("demo/app:v1", build_index([other, mine]))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            assert await pull(puller, registry, bundle) == mine.manifest_digest


async def test_a_second_pull_transfers_no_layer(work: Path, tmp_path: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            await pull(puller, registry, tmp_path / "one")
            layers = {str(each.path) for each in registry.requests if BLOBS in each.path}
            before = blob_fetches(registry)
            await pull(puller, registry, tmp_path / "two")
        assert len(layers) == 3
        assert blob_fetches(registry) == before + 1  # the configuration
        assert a(tmp_path / "two") == b"upper"


async def test_two_pulls_of_one_image_at_once_download_each_blob_once(
    work: Path, tmp_path: Path
) -> None:
    pipeline = PlainPipeline()
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(Fault(path=BLOBS, delay=0.3))
        async with plain_puller(
            work, pipeline=pipeline, registry_config=_rules(registry)
        ) as puller:
            async with asyncio.TaskGroup() as group:
                for name in ("one", "two"):
                    group.create_task(pull(puller, registry, tmp_path / name))
        assert sorted(pipeline.unpacked) == sorted(set(pipeline.unpacked))
        assert len(pipeline.unpacked) == 2
        assert a(tmp_path / "one") == a(tmp_path / "two") == b"upper"


async def test_a_caller_that_leaves_does_not_disturb_another_pull_of_the_same_layers(
    work: Path, tmp_path: Path
) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        slow = registry.faults.add(Fault(path=BLOBS, delay=1.5, skip=1))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(pull(puller, registry, tmp_path / "one"))
                staying = group.create_task(pull(puller, registry, tmp_path / "two"))
                while slow.hits < 2:
                    await asyncio.sleep(0.01)
                leaving.cancel()
            assert leaving.cancelled()
            assert staying.result().startswith("sha256:")
        assert nothing_at(tmp_path / "one")
        assert left_in_store(work) == []


FAULTS = {
    "flipped": (Fault(path=BLOBS, flip=-1, skip=1, times=1), IntegrityError),
    "longer": (Fault(path=BLOBS, resize=5, skip=1, times=1), IntegrityError),
    "shorter": (Fault(path=BLOBS, resize=-5, skip=1, times=1), IntegrityError),
    "missing": (Fault(path=BLOBS, status=404, skip=1, times=1), NotFoundError),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_bad_layer_fails_the_pull_leaves_nothing_and_the_next_pull_works(
    name: str, work: Path, bundle: Path
) -> None:
    fault, kind = FAULTS[name]
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        armed = registry.faults.add(fault)
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(kind, match=r"^Image Pull error: Failed to pull image"):
                await pull(puller, registry, bundle)
            assert armed.hits == 1
            assert nothing_at(bundle)
            assert left_in_store(work) == []
            await pull(puller, registry, bundle)
        assert a(bundle) == b"upper"


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_connection_cut_mid_layer_is_resumed(
    ranges: bool, work: Path, bundle: Path
) -> None:
    async with Registry(ranges=ranges) as registry:
        registry.push_image("demo/app:v1", two_layers())
        armed = registry.faults.add(Fault(path=BLOBS, cut_after=70_000, skip=1, times=3))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            await pull(puller, registry, bundle)
        assert armed.hits >= 1
        resumed = [each for each in registry.requests if "range" in each.headers]
        assert resumed
        assert a(bundle) == b"upper"


async def test_a_registry_that_always_cuts_fails_the_pull(work: Path, bundle: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(Fault(path=BLOBS, cut_after=0, skip=1))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(GuestError, match=r"Failed to async pull blob stream"):
                await pull(puller, registry, bundle)
        assert nothing_at(bundle)
        assert left_in_store(work) == []


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_a_pull_that_ends_early_leaves_nothing(how: str, work: Path, bundle: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        stall = registry.faults.add(Fault(path=BLOBS, stall_after=10, skip=1))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            reference = f"{registry.host}/demo/app:v1"
            if how == "deadline":
                with pytest.raises(DeadlineError):
                    await puller.pull(reference, bundle, deadline=Deadline.after(1.5))
            else:
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(
                        puller.pull(reference, bundle, deadline=Deadline.unlimited())
                    )
                    while not stall.hits:
                        await asyncio.sleep(0.01)
                    task.cancel()
            assert nothing_at(bundle)
            assert left_in_store(work) == []
            registry.faults.clear()
            await pull(puller, registry, bundle)
        assert a(bundle) == b"upper"


async def test_an_unknown_layer_media_type_is_refused_before_any_layer(
    work: Path, bundle: Path
) -> None:
    image = two_layers()
    manifest = json.loads(image.manifest)
    manifest["layers"][1]["mediaType"] = "application/vnd.example.nydus"
    async with Registry() as registry:
        registry.push_image("demo/app:v1", image)
        data = json.dumps(manifest).encode()
        registry.put_manifest("demo/app", "v1", manifest["mediaType"], data)
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            text = "Failed to decode layer: unhandled media type: application/vnd.example.nydus"
            with pytest.raises(GuestError, match=text):
                await pull(puller, registry, bundle)
        assert blob_fetches(registry) == 1


@pytest.mark.spec("image-pull", 23)
async def test_another_count_of_diff_ids_fails_before_any_layer(work: Path, bundle: Path) -> None:
    image = two_layers()
    manifest = json.loads(image.manifest)
    manifest["layers"].pop()
    async with Registry() as registry:
        registry.push_image("demo/app:v1", image)
        data = json.dumps(manifest).encode()
        registry.put_manifest("demo/app", "v1", manifest["mediaType"], data)
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(GuestError, match=r"error: Internal error: Pulled number of layers"):
                await pull(puller, registry, bundle)
        assert blob_fetches(registry) == 1


@pytest.mark.parametrize("settings", [{"architecture": "arm64"}, {"os": "windows"}])
async def test_an_image_for_another_platform_is_refused_before_any_layer(
    settings: dict[str, str], work: Path, bundle: Path
) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers(**settings))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(GuestError, match=r"Failed to create bundle|Internal error"):
                await pull(puller, registry, bundle)
        assert blob_fetches(registry) == 1


@pytest.mark.spec("image-pull", 22)
async def test_a_manifest_longer_than_its_limit_is_refused(work: Path, bundle: Path) -> None:
    async with Registry() as registry:
        body = b" " * (5 * 1024 * 1024)
        registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(Fault(path="/manifests/", body=body))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(GuestError, match=r"failed to pull image manifest: .*are read"):
                await pull(puller, registry, bundle)


async def test_a_configuration_blob_with_another_digest_is_refused(
    work: Path, bundle: Path
) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(Fault(path=BLOBS, flip=3))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(IntegrityError, match=r"Digest error: Invalid digest. Expected sha"):
                await pull(puller, registry, bundle)


async def test_a_manifest_that_is_not_the_digest_asked_for_is_refused(
    work: Path, bundle: Path
) -> None:
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(
            Fault(path="/manifests/", flip=-3, headers={"Docker-Content-Digest": ""})
        )
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(IntegrityError, match=rf"Expected {digest}, got sha256:"):
                await pull(puller, registry, bundle, f"demo/app@{digest}")


async def test_a_manifest_that_differs_from_its_header_is_refused(work: Path, bundle: Path) -> None:
    wrong = sha256(b"other")
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        registry.faults.add(Fault(path="/manifests/", headers={"Docker-Content-Digest": wrong}))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(IntegrityError, match=rf"Invalid digest. Expected {wrong}"):
                await pull(puller, registry, bundle)


async def test_too_many_requests_are_answered_with_patience(work: Path, bundle: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        for path in ("/manifests/", BLOBS):
            registry.faults.add(Fault(path=path, status=429, times=2, headers={"Retry-After": "0"}))
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            await pull(puller, registry, bundle)


async def test_a_bundle_that_is_taken_is_left_as_it_is(work: Path, bundle: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        bundle.mkdir()
        (bundle / "config.json").write_text("mine")
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            with pytest.raises(InvalidInputError, match=r"error: Failed to create bundle: OCI con"):
                await pull(puller, registry, bundle)
        assert [each.name for each in bundle.iterdir()] == ["config.json"]
        assert (bundle / "config.json").read_text() == "mine"
        assert blob_fetches(registry) == 0


async def test_a_finished_pull_can_be_undone(work: Path, bundle: Path) -> None:
    async with Registry() as registry:
        registry.push_image("demo/app:v1", two_layers())
        async with plain_puller(work, registry_config=_rules(registry)) as puller:
            await pull(puller, registry, bundle)
            await puller.discard(bundle)
            assert nothing_at(bundle)
            await pull(puller, registry, bundle)


async def test_an_illegal_reference_is_named_so(work: Path, bundle: Path) -> None:
    async with plain_puller(work) as puller:
        with pytest.raises(InvalidInputError, match=r"^Image Pull error: Illegal image reference"):
            await puller.pull("UPPER:tag", bundle, deadline=Deadline.after(5))
    assert not work.exists()
