"""The whole puller, real in every part, against the simulator's registry."""

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from guest.deadline import Deadline
from guest.errors import GuestError, IntegrityError
from guest_simulator.faults import Fault
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.images.rootfs import expected_rootfs, resolve
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from image_pull.puller import ImagePuller
from image_pull.registry.rules import RegistriesTable
from image_pull.store import syscalls
from support.pulling import Resources, insecure, left_in_store

BLOBS = r"/blobs/"
MOUNTED = pytest.param(True, marks=[pytest.mark.root, pytest.mark.mount], id="mounted")
COPIED = pytest.param(False, id="copied")
EITHER = pytest.mark.parametrize("mounted", [MOUNTED, COPIED])


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory, where an overlay can have its upper directory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def puller(
    base: Path, registry: Registry, mounted: bool, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ImagePuller]:
    if not mounted:
        monkeypatch.setattr("image_pull.store.overlay.Overlays.why_not", lambda self: "test")
    rules = msgspec.convert(insecure(registry.host), RegistriesTable)
    config = ImageConfig(work_dir=str(base / "work"), registry_config=rules)
    made = build_puller(config, resources=Resources(), keys=None)
    try:
        yield made
    finally:
        await made.close()


async def pulled(
    made: ImagePuller, registry: Registry, image: Image, bundle: Path, name: str = "demo/app"
) -> Path:
    digest = registry.push_image(f"{name}:v1", image)
    reference = f"{registry.host}/{name}:v1"
    assert await made.pull(reference, bundle, deadline=Deadline.after(50)) == digest
    assert os.path.ismount(bundle / "rootfs") == (bundle / "rootfs" in _mounts())
    return bundle / "rootfs"


def _mounts() -> set[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {Path(line.split()[4]) for line in lines}


def file(path: str, data: bytes = b"x", **more: object) -> Entry:
    return replace(Entry(kind=Kind.FILE, path=path, data=data), **more)  # type: ignore[arg-type]


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(kind=Kind.DIRECTORY, path=path, mode=mode)


def found(rootfs: Path) -> set[str]:
    paths = set()
    for place, directories, files in os.walk(rootfs):
        inside = Path(place).relative_to(rootfs)
        paths |= {str(inside / name) for name in (*directories, *files)}
    return paths


def compare(rootfs: Path, layers: list[Layer], devices: bool, owners: bool) -> None:
    expected = expected_rootfs(layers)
    special = {Kind.CHARACTER, Kind.BLOCK}
    wanted = {path for path in expected if devices or resolve(expected, path).kind not in special}
    here = found(rootfs)
    assert wanted - here == set()
    parents = {str(parent) for path in expected for parent in Path(path).parents}
    assert here - wanted - parents == set()
    for path in sorted(wanted):
        entry, status = resolve(expected, path), (rootfs / path).lstat()
        if owners:
            assert (status.st_uid, status.st_gid) == (entry.uid, entry.gid), path
        if entry.kind is Kind.FILE:
            assert (rootfs / path).read_bytes() == entry.data, path
        if entry.kind is Kind.SYMLINK:
            assert os.readlink(rootfs / path) == entry.target
        else:
            assert stat.S_IMODE(status.st_mode) == entry.mode, path
        if entry.kind in special:
            numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
            assert numbers == (entry.major, entry.minor)
        assert status.st_mtime == pytest.approx(entry.mtime, abs=1), path


@EITHER
async def test_an_image_of_everything_becomes_the_expected_root_file_system(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = demo_layers(files=150)
    async with Registry() as registry:
        async with puller(base, registry, mounted, monkeypatch) as made:
            rootfs = await pulled(made, registry, build_image(layers), base / "bundle")
            root = os.geteuid() == 0
            compare(rootfs, layers, devices=root, owners=root)
            assert left_in_store(base / "work") == []
            await made.discard(base / "bundle")
            assert not rootfs.exists() or list(rootfs.iterdir()) == []


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.spec("image-pull", 5)
async def test_the_root_file_system_is_one_overlay_over_an_empty_directory(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Registry() as registry:
        async with puller(base, registry, True, monkeypatch) as made:
            image = build_image([Layer(entries=(file("a"),))])
            rootfs = await pulled(made, registry, image, base / "bundle")
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            here = [line for line in lines if line.split()[4] == str(rootfs)]
            assert len(here) == 1
            assert " - overlay " in here[0]
            (rootfs / "new").write_bytes(b"")
            syscalls.unmount(os.fsencode(rootfs), detach=False)
            assert list(rootfs.iterdir()) == []
            # kata-agent takes the directory away after that; the next pull brings it back.
            rootfs.rmdir()
            (base / "bundle" / "config.json").unlink()
            again = await pulled(made, registry, image, base / "bundle")
            assert found(again) == {"a"}
            assert len(list((base / "work" / "mounts").iterdir())) == 1
            await made.discard(base / "bundle")


@EITHER
@pytest.mark.spec("image-pull", 34)
async def test_a_repeated_layer_hides_what_those_between_changed(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Layer(entries=(file("etc/f", b"A"), file("etc/g", b"A")))
    b = Layer(entries=(file("etc/f", b"B"), Entry(kind=Kind.WHITEOUT, path="etc/g"), file("etc/h")))
    async with Registry() as registry:
        async with puller(base, registry, mounted, monkeypatch) as made:
            rootfs = await pulled(made, registry, build_image([a, b, a]), base / "bundle")
            assert (rootfs / "etc/f").read_bytes() == b"A"
            assert found(rootfs) == {"etc", "etc/f", "etc/g", "etc/h"}
            blobs = [each.path for each in registry.requests if BLOBS in each.path]
            assert len(blobs) == len(set(blobs)) == 3
            await made.discard(base / "bundle")


@EITHER
@pytest.mark.spec("image-pull", 42)
async def test_parents_that_a_layer_implies_keep_what_the_layer_below_says(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = Layer(entries=(directory(".", 0o750), directory("tmp", 0o1777)))
    async with Registry() as registry:
        async with puller(base, registry, mounted, monkeypatch) as made:
            upper = Layer(entries=(file("tmp/x"),))
            rootfs = await pulled(made, registry, build_image([lower, upper]), base / "one")
            assert stat.S_IMODE((rootfs / "tmp").stat().st_mode) == 0o1777
            assert stat.S_IMODE(rootfs.stat().st_mode) == 0o750
            # The same layer on top of another one implies another parent.
            other = Layer(entries=(directory("tmp", 0o700),))
            rootfs = await pulled(
                made, registry, build_image([other, upper]), base / "two", "demo/b"
            )
            assert stat.S_IMODE((rootfs / "tmp").stat().st_mode) == 0o700
            for name in ("one", "two"):
                await made.discard(base / name)


@EITHER
@pytest.mark.spec("image-pull", 44)
async def test_an_image_without_layers_has_an_empty_root(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Registry() as registry:
        async with puller(base, registry, mounted, monkeypatch) as made:
            rootfs = await pulled(made, registry, build_image([]), base / "bundle")
            assert list(rootfs.iterdir()) == []
            await made.discard(base / "bundle")


@EITHER
async def test_a_user_of_the_image_is_looked_up_in_it(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer(entries=(file("etc/passwd", b"app:x:7:8::/:\n"),))
    async with Registry() as registry:
        async with puller(base, registry, mounted, monkeypatch) as made:
            image = build_image([layer], config={"User": "app"})
            await pulled(made, registry, image, base / "bundle")
            spec = msgspec.json.decode((base / "bundle" / "config.json").read_bytes())
            assert spec["process"]["user"] == {"uid": 7, "gid": 8}
            await made.discard(base / "bundle")
            nobody = build_image([layer], config={"User": "nobody"})
            with pytest.raises(GuestError, match=r"error: Failed to create bundle: image has no"):
                await pulled(made, registry, nobody, base / "bundle")
            assert list((base / "bundle").iterdir()) in ([], [base / "bundle" / "rootfs"])
            assert base / "bundle" / "rootfs" not in _mounts()


WRONG = {
    "body is not Docker-Content-Digest": (
        Fault(path="/manifests/", headers={"Docker-Content-Digest": "sha256:" + "0" * 64}),
        "failed to pull image manifest: Digest error: Invalid digest. Expected sha256:0000",
    ),
    "body is not the digest asked for": (
        Fault(path="/manifests/sha256", flip=-3, headers={"Docker-Content-Digest": ""}),
        "failed to pull image manifest: Digest error: Invalid digest. Expected sha256:",
    ),
    "configuration is not its digest": (
        Fault(path=BLOBS, flip=-3, times=1),
        "failed to pull image manifest: Digest error: Invalid digest. Expected sha256:",
    ),
    "blob is not its digest": (
        Fault(path=BLOBS, flip=-3, skip=1, times=1),
        "Failed to decode layer data stream: Failed to unpack layer: ",
    ),
    "blob is longer than its size": (
        Fault(path=BLOBS, resize=7, skip=1, times=1),
        "Failed to async pull blob stream",
    ),
    "blob is shorter than its size": (
        Fault(path=BLOBS, resize=-7, skip=1, times=1),
        "Failed to async pull blob stream",
    ),
}


@EITHER
@pytest.mark.parametrize("name", [*WRONG, "tar is not its diff_id"])
@pytest.mark.spec("image-pull", 21)
async def test_what_is_not_its_digest_or_size_fails_the_pull_and_leaves_no_layer(
    name: str, mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer(entries=(file("a", os.urandom(100_000)),))
    image = build_image([layer])
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", image)
        reference, text = f"{registry.host}/demo/app@{digest}", "unequal uncompressed digest sha"
        if name in WRONG:
            fault, text = WRONG[name]
            registry.faults.add(fault)
        else:
            reference = f"{registry.host}/demo/app@{_with_wrong_diff_id(registry, image)}"
        async with puller(base, registry, mounted, monkeypatch) as made:
            with pytest.raises(IntegrityError, match=text):
                await made.pull(reference, base / "bundle", deadline=Deadline.after(30))
            assert left_in_store(base / "work") == []
            assert list((base / "work" / "unpacked").iterdir()) == []
            assert not (base / "bundle" / "config.json").exists()
            registry.faults.clear()
            rootfs = await pulled(made, registry, image, base / "bundle")
            assert found(rootfs) == {"a"}
            await made.discard(base / "bundle")


def _with_wrong_diff_id(registry: Registry, image: Image) -> str:
    config = msgspec.json.decode(image.config)
    config["rootfs"]["diff_ids"] = ["sha256:" + "ab" * 32]
    body = msgspec.json.encode(config)
    manifest = msgspec.json.decode(image.manifest)
    manifest["config"] |= {"digest": registry.put_blob("demo/app", body), "size": len(body)}
    return registry.put_manifest(
        "demo/app", "wrong", manifest["mediaType"], msgspec.json.encode(manifest)
    )


@EITHER
@pytest.mark.spec("image-pull", 46)
async def test_pulls_share_layers_and_transfer_them_once(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Layer(entries=(file("shared", os.urandom(50_000)),))
    images = [build_image([shared, Layer(entries=(file(f"own{number}"),))]) for number in range(2)]
    async with Registry() as registry:
        registry.faults.add(Fault(path=BLOBS, delay=0.2))
        async with puller(base, registry, mounted, monkeypatch) as made:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        pulled(made, registry, images[n % 2], base / f"b{n}", f"demo/{n % 2}")
                    )
                    for n in range(4)
                ]
            paths = [each.path for each in registry.requests if BLOBS in each.path]
            layers = {
                layer.blob and f"{layer.descriptor['digest']}"
                for layer in (shared, images[0].layers[1], images[1].layers[1])
            }
            fetched = [path for path in paths if path.rpartition("/")[2] in layers]
            assert len(fetched) == len(set(fetched)) == 3
            before = len(registry.requests)
            await pulled(made, registry, images[0], base / "again", "demo/0")
            later = [each.path for each in list(registry.requests)[before:]]
            assert not any(path.rpartition("/")[2] in layers for path in later)
            for number, task in enumerate(tasks):
                assert found(task.result()) == {"shared", f"own{number % 2}"}
            for name in ("b0", "b1", "b2", "b3", "again"):
                await made.discard(base / name)


@EITHER
@pytest.mark.spec("image-pull", 47)
async def test_a_cut_is_resumed_and_a_pull_that_is_given_up_leaves_no_partial_layer(
    mounted: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Layer(entries=(file("small"),))
    image = build_image([small, Layer(entries=(file("big", os.urandom(300_000)),))])
    async with Registry() as registry:
        registry.push_image("demo/app:v1", image)
        digest = str(image.layers[1].descriptor["digest"])
        cut = registry.faults.add(Fault(path=digest, cut_after=100_000, times=1))
        async with puller(base, registry, mounted, monkeypatch) as made:
            rootfs = await pulled(made, registry, image, base / "one")
            assert cut.hits == 1
            assert found(rootfs) == {"small", "big"}
            await made.discard(base / "one")
        shutil.rmtree(base / "work")
        registry.faults.clear()
        stall = registry.faults.add(Fault(path=digest, stall_after=100_000))
        async with puller(base, registry, mounted, monkeypatch) as made:
            reference = f"{registry.host}/demo/app:v1"
            async with asyncio.TaskGroup() as group:
                task = group.create_task(
                    made.pull(reference, base / "two", deadline=Deadline.unlimited())
                )
                while not stall.hits or not list((base / "work" / "unpacked").iterdir()):
                    await asyncio.sleep(0.01)
                task.cancel()
            assert left_in_store(base / "work") == []
            assert len(list((base / "work" / "unpacked").iterdir())) == 1
            registry.faults.clear()
            before = len(registry.requests)
            await pulled(made, registry, image, base / "two")
            later = [each.path for each in list(registry.requests)[before:]]
            assert not any(str(small.descriptor["digest"]) in path for path in later)
            await made.discard(base / "two")


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.spec("image-pull", 50)
async def test_a_full_store_fails_the_pull_and_not_the_puller(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = build_image([Layer(entries=(file("big", os.urandom(4_000_000)),))])
    small = build_image([Layer(entries=(file("small"),))])
    (base / "work").mkdir()
    syscalls.mount("small", os.fsencode(base / "work"), "tmpfs", b"size=2m")
    try:
        async with Registry() as registry:
            async with puller(base, registry, True, monkeypatch) as made:
                with pytest.raises(GuestError, match=r"Failed to pull image"):
                    await pulled(made, registry, big, base / "bundle")
                assert left_in_store(base / "work") == []
                rootfs = await pulled(made, registry, small, base / "bundle")
                assert found(rootfs) == {"small"}
                await made.discard(base / "bundle")
    finally:
        syscalls.unmount(os.fsencode(base / "work"), detach=True)
