"""Stored layers: found by content, visible at once, never mixed up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guest.crypto.digest import HashAlgorithm
from guest.errors import PlatformError
from image_pull.layers.record import Jail, LayerRecord
from image_pull.store.layers import TREE, LayerKey, LayerStore
from image_pull.store.meta import Store

DIFF_ID = HashAlgorithm.SHA256.of(b"tar")
KEY = LayerKey(
    blob=HashAlgorithm.SHA256.of(b"blob"),
    diff_id=DIFF_ID,
    encrypted=False,
    finished=True,
    chain="chain",
)


def record(*implicit: bytes) -> LayerRecord:
    return LayerRecord(
        diff_id=str(DIFF_ID),
        entries=1,
        tar_bytes=1,
        jail=Jail.RESOLVER,
        privileged=False,
        implicit=implicit,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, "boot")
    yield opened
    opened.close()


def published(layers: LayerStore, key: LayerKey, *implicit: bytes) -> Path:
    staged = layers.stage()
    (staged / TREE).mkdir()
    (staged / TREE / "file").write_bytes(b"x")
    return layers.publish(staged, key, record(*implicit)).tree


def test_a_published_layer_is_found_with_its_record(store: Store) -> None:
    layers = LayerStore(store)
    assert layers.find(KEY) is None
    tree = published(layers, KEY)
    found = layers.find(KEY)
    assert found is not None
    assert found.tree == tree
    assert found.record == record()
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize(
    "key",
    [
        replace(KEY, blob=HashAlgorithm.SHA256.of(b"other")),
        replace(KEY, diff_id=HashAlgorithm.SHA256.of(b"other")),
        replace(KEY, encrypted=True),
        replace(KEY, finished=False),
    ],
)
def test_another_blob_content_secrecy_or_use_is_another_layer(key: LayerKey, store: Store) -> None:
    layers = LayerStore(store)
    published(layers, KEY)
    assert layers.find(key) is None


def test_a_layer_that_depends_on_those_below_it_is_found_on_top_of_them_only(
    store: Store,
) -> None:
    layers = LayerStore(store)
    published(layers, KEY, b"etc")
    assert layers.find(KEY) is not None
    assert layers.find(replace(KEY, chain="other")) is None


def test_a_layer_that_stands_alone_is_found_on_top_of_any(store: Store) -> None:
    layers = LayerStore(store)
    published(layers, KEY)
    assert layers.find(replace(KEY, chain="other")) is not None


def test_of_two_that_publish_one_layer_both_get_the_first(store: Store) -> None:
    layers = LayerStore(store)
    first = published(layers, KEY)
    second = published(layers, KEY)
    assert first == second
    assert (first / "file").read_bytes() == b"x"


def test_a_dropped_layer_is_gone(store: Store) -> None:
    layers = LayerStore(store)
    staged = layers.stage()
    deep = staged / TREE
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    layers.drop(staged)
    layers.drop(staged)
    assert list(store.staging.iterdir()) == []
    assert layers.find(KEY) is None


def test_a_record_that_cannot_be_read_is_an_error_and_no_layer(store: Store) -> None:
    layers = LayerStore(store)
    tree = published(layers, KEY)
    (tree.parent / "record").write_bytes(b"junk")
    with pytest.raises(PlatformError, match="cannot be read"):
        layers.find(KEY)
