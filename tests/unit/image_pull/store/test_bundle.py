"""Bundles: whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.errors import GuestError, InvalidInputError, PlatformError
from image_pull.layers.merge import merge_layers
from image_pull.layers.record import Jail, LayerRecord
from image_pull.store.bundle import COPY, Bundles, visible_layers
from image_pull.store.claim import MARK, claimed
from image_pull.store.layers import StoredLayer
from image_pull.store.meta import Store
from image_pull.store.overlay import Overlays


@pytest.fixture
def bundles(tmp_path: Path) -> Iterator[Bundles]:
    store = Store.open(tmp_path / "work", "boot")
    yield Bundles(overlays=Overlays(store), mounts=False, merge=merge_layers)
    store.close()


def layer(base: Path, name: str, opaque: tuple[bytes, ...] = ()) -> StoredLayer:
    tree = base / name
    tree.mkdir()
    (tree / name).write_text(name)
    record = LayerRecord(
        diff_id="sha256:" + "0" * 64,
        entries=1,
        tar_bytes=1,
        jail=Jail.RESOLVER,
        privileged=False,
        opaque=opaque,
    )
    return StoredLayer(tree=tree, record=record)


def spec(rootfs: Path) -> bytes:
    assert rootfs.is_dir()
    return b"{}"


def test_a_bundle_is_made_where_nothing_is(bundles: Bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "deep" / "bundle"
    bundles.assemble(bundle, [layer(tmp_path, "a"), layer(tmp_path, "b")], spec)
    assert sorted(each.name for each in bundle.iterdir()) == ["config.json", "rootfs"]
    assert sorted(each.name for each in (bundle / "rootfs").iterdir()) == ["a", "b"]
    bundles.discard(bundle)
    assert list(bundle.iterdir()) == []
    bundles.discard(bundle)


def test_an_empty_root_directory_is_used(bundles: Bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    bundles.assemble(bundle, [layer(tmp_path, "a")], spec)
    assert (bundle / "rootfs" / "a").exists()


@pytest.mark.parametrize("taken", ["config.json", "rootfs/file", "rootfs-is-a-file"])
def test_what_is_there_already_is_left_alone(taken: str, bundles: Bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    path = bundle / ("rootfs" if taken == "rootfs-is-a-file" else taken)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(GuestError):
        bundles.assemble(bundle, [layer(tmp_path, "a")], spec)
    assert path.read_text() == "mine"
    assert len(list(bundle.iterdir())) == 1


def test_a_dangling_configuration_link_counts_as_taken(bundles: Bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match="OCI config file already exists"):
        bundles.assemble(bundle, [], spec)
    assert not (tmp_path / "elsewhere").exists()


def test_a_relative_path_is_refused(bundles: Bundles) -> None:
    with pytest.raises(InvalidInputError, match="not absolute"):
        bundles.assemble(Path("bundle"), [], spec)


def test_a_configuration_that_cannot_be_made_leaves_nothing(
    bundles: Bundles, tmp_path: Path
) -> None:
    def fail(rootfs: Path) -> bytes:
        assert (rootfs / "a").exists()
        raise PlatformError("no")

    with pytest.raises(PlatformError, match=r"^no$"):
        bundles.assemble(tmp_path / "bundle", [layer(tmp_path, "a")], fail)
    assert list((tmp_path / "bundle").iterdir()) == []


def test_a_configuration_that_appears_meanwhile_is_kept_and_the_rest_goes(
    bundles: Bundles, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"

    def race(rootfs: Path) -> bytes:
        (bundle / "config.json").write_text("theirs")
        return b"{}"

    with pytest.raises(PlatformError, match="cannot be made"):
        bundles.assemble(bundle, [layer(tmp_path, "a")], race)
    assert [each.name for each in bundle.iterdir()] == ["config.json"]
    assert (bundle / "config.json").read_text() == "theirs"


def test_layers_below_one_with_an_opaque_root_are_not_mounted(tmp_path: Path) -> None:
    layers = [layer(tmp_path, "a"), layer(tmp_path, "b", (b"",)), layer(tmp_path, "c")]
    assert list(visible_layers(layers)) == [layers[2], layers[1]]


def test_a_bundle_that_somebody_makes_is_refused(bundles: Bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with claimed(bundle) as claim:
        claim.start()
        for act in (bundles.check_free, bundles.discard):
            with pytest.raises(InvalidInputError, match="another pull makes"):
                act(bundle)
        with pytest.raises(InvalidInputError, match="another pull makes"):
            bundles.assemble(bundle, [layer(tmp_path, "a")], spec)
    assert [each.name for each in bundle.iterdir()] == [MARK]


def test_what_a_dead_pull_made_goes_and_a_bundle_is_made_there(
    bundles: Bundles, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    with claimed(bundle) as claim:  # and the process ends
        claim.start()
        (bundle / "rootfs" / "half").write_text("made")
        (bundle / COPY).mkdir()
        claim.publish(bundle / "config.json", b"{}")
    bundles.assemble(bundle, [layer(tmp_path, "a")], spec)
    assert sorted(each.name for each in bundle.iterdir()) == ["config.json", "rootfs"]
    assert [each.name for each in (bundle / "rootfs").iterdir()] == ["a"]


@pytest.mark.parametrize("started", [False, True])
def test_what_was_there_before_a_dead_pull_stays(
    started: bool, bundles: Bundles, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text("mine")
    if not started:
        (bundle / "rootfs").mkdir()
        (bundle / "rootfs" / "file").write_text("mine")
    with claimed(bundle) as claim:
        if started:
            claim.start()
    with pytest.raises(InvalidInputError, match="OCI config file already exists"):
        bundles.check_free(bundle)
    assert (bundle / "config.json").read_text() == "mine"
    assert started or (bundle / "rootfs" / "file").read_text() == "mine"
    assert not (bundle / MARK).exists()


def test_a_bundle_whose_undoing_was_cut_off_is_undone(bundles: Bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundles.assemble(bundle, [layer(tmp_path, "a")], spec)
    with claimed(bundle) as claim:
        claim.start(undoing=True)
    bundles.check_free(bundle)
    assert list(bundle.iterdir()) == []


def test_a_mark_that_is_a_link_is_not_followed(bundles: Bundles, tmp_path: Path) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    bundle.mkdir()
    other.write_text("theirs")
    (bundle / MARK).symlink_to(other)
    with pytest.raises(PlatformError):
        bundles.assemble(bundle, [layer(tmp_path, "a")], spec)
    assert other.read_text() == "theirs"
