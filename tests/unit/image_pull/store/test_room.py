"""What goes for an image and what does not; what cannot fit is said before a byte is written."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.deadline import boot_seconds
from guest.errors import LimitError
from image_pull.layers.record import Jail, LayerRecord
from image_pull.store.layers import LayerKey, LayerStore
from image_pull.store.meta import Store
from image_pull.store.overlay import LAYERS, Overlays
from image_pull.store.room import KEEP_SECONDS, Room


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "work", "boot")
    yield opened
    opened.close()


def key(name: str) -> LayerKey:
    digest = HashAlgorithm.SHA256.of(name.encode())
    return LayerKey(blob=digest, diff_id=digest, encrypted=False, finished=True, chain=name)


def put(layers: LayerStore, name: str, age: float = 0.0) -> LayerKey:
    staged = layers.stage()
    (staged / "tree").mkdir()
    (staged / "tree" / name).write_text(name)
    record = LayerRecord(
        diff_id=str(key(name).diff_id), entries=1, tar_bytes=1, jail=Jail.RESOLVER, privileged=False
    )
    entry = layers.publish(staged, key(name), record).tree.parent
    then = boot_seconds() - age
    os.utime(entry / "record", (then, then))
    return key(name)


def there(store: Store) -> set[str]:
    return {file.name for file in store.unpacked.glob("*/tree/*")}


def room(store: Store, layers: LayerStore, keep: float = KEEP_SECONDS, **more: int) -> Room:
    overlays = Overlays(store)
    return Room(store=store, layers=layers, overlays=overlays, keep_seconds=keep, **more)


def test_old_layers_go_and_young_held_and_shown_ones_stay(store: Store) -> None:
    layers = LayerStore(store)
    put(layers, "young", KEEP_SECONDS - 100)
    held = put(layers, "held", KEEP_SECONDS + 100)
    shown = put(layers, "shown", KEEP_SECONDS + 100)
    put(layers, "old", KEEP_SECONDS + 100)
    place = store.mounts / "place"
    place.mkdir()
    (place / LAYERS).write_text(f"{'0' * 40}\n{shown.name(with_chain=False)}")
    made = room(store, layers)
    wanted = {held: 10}
    with made.holding(wanted):
        forecast = made.make(wanted)
    assert (forecast.needed, forecast.missing, forecast.collected) == (0, 0, 1)
    assert there(store) == {"young", "held", "shown"}
    shutil.rmtree(place)
    assert made.make({}).collected == 2
    assert there(store) == {"young"}
    assert list(store.staging.iterdir()) == []


def test_a_layer_that_was_looked_for_is_young_again(store: Store) -> None:
    layers = LayerStore(store)
    old = put(layers, "old", KEEP_SECONDS + 100)
    assert layers.find(old) is not None
    assert room(store, layers).make({}).collected == 0


def test_two_pulls_hold_a_layer_until_the_second_ends(store: Store) -> None:
    layers = LayerStore(store)
    both = put(layers, "both", 1)
    made = room(store, layers, keep=0)
    with made.holding({both: 1}):
        with made.holding({both: 1}):
            assert made.make({}).collected == 0
        assert made.make({}).collected == 0
    assert made.make({}).collected == 1


def test_under_pressure_the_oldest_go_first_and_only_as_many_as_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = LayerStore(store)
    for number in range(4):
        put(layers, f"layer{number}", 10 * (4 - number))
    made = room(store, layers)
    monkeypatch.setattr(Room, "free", lambda self: 1000 - 200 * len(there(store)))
    forecast = made.make({key("new"): 140})
    assert (forecast.needed, forecast.free, forecast.collected) == (140, 600, 2)
    assert there(store) == {"layer2", "layer3"}


def test_what_cannot_fit_is_refused_with_both_numbers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = LayerStore(store)
    have = put(layers, "have")
    made = room(store, layers)
    monkeypatch.setattr(Room, "free", lambda self: 1000)
    wanted = {have: 5000, key("a"): 600, key("b"): 400}
    with made.holding(wanted):
        assert made.make(wanted).needed == 1000
        with pytest.raises(LimitError, match=r"at least 1001 bytes, the store has 1000 bytes free"):
            made.make(wanted | {key("c"): 1})


def test_a_layer_longer_than_it_may_unpack_to_is_refused(store: Store) -> None:
    made = room(store, LayerStore(store), max_bytes=100)
    made.make({key("a"): 100, key("b"): 100})
    with pytest.raises(LimitError, match="101 bytes, more than the 100 bytes"):
        made.make({key("a"): 101})


def test_a_layer_that_is_half_removed_is_gone_and_the_rest_goes_with_the_next_start(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = LayerStore(store)
    gone = put(layers, "gone", 10)

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("image_pull.store.layers.remove_tree", die)
        with pytest.raises(KeyboardInterrupt):
            room(store, layers, keep=0).make({})
    assert layers.find(gone) is None
    assert len(list(store.staging.iterdir())) == 1
    store.close()
    again = Store.open(store.root, "boot")
    assert list(again.staging.iterdir()) == []
    again.close()
