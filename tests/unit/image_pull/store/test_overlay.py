"""Overlay mounts and their text in mountinfo."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import PlatformError
from image_pull.layers.record import RootEntry
from image_pull.store import syscalls
from image_pull.store.meta import Store
from image_pull.store.mountinfo import MOUNTINFO, mount_points, unescape
from image_pull.store.overlay import Overlays, mount_old

MIB = b"""30 1 8:1 / / rw shared:1 - ext4 /dev/root rw
69 30 0:40 / /run/a\\040b/rootfs rw,relatime - overlay overlay rw,lowerdir=/x
70 30 0:41 / /run/c rw,relatime shared:3 master:1 - tmpfs overlay rw
71 30 0:42 / /run/d\\134 rw,relatime - overlay none rw
"""


def test_overlays_are_found_in_mountinfo() -> None:
    assert mount_points(MIB) == {b"/run/a b/rootfs", b"/run/d\\"}


@given(st.binary(max_size=40))
def test_any_field_is_unescaped_and_escaped_ones_come_back(data: bytes) -> None:
    unescape(data)
    mount_points(data)
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in data)
    assert unescape(escaped) == data


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on a tmpfs, where overlays can have their upper directory."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def store(memory: Path) -> Iterator[Store]:
    opened = Store.open(memory / "work, with: odd\\names", "boot")
    yield opened
    opened.close()


def trees(memory: Path, count: int) -> list[Path]:
    made = []
    for number in range(count):
        tree = memory / f"layer:{number},{'x' * 60}"
        tree.mkdir()
        (tree / f"file{number}").write_bytes(b"x")
        (tree / "same").write_text(str(number))
        made.append(tree)
    return made[::-1]


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.parametrize("count", [0, 1, 127])
@pytest.mark.spec("image-pull", 43)
def test_any_count_of_layers_is_mounted_read_write_with_all_their_content(
    count: int, memory: Path, store: Store
) -> None:
    target = memory / "bundle with space" / "rootfs"
    target.mkdir(parents=True)
    overlays = Overlays(store)
    place = overlays.mount(trees(memory, count), target, None)
    try:
        names = {f"file{number}" for number in range(count)} | ({"same"} if count else set())
        assert {each.name for each in target.iterdir()} == names
        if count:
            assert (target / "same").read_text() == str(count - 1)
        (target / "new").write_bytes(b"written")
        status = target.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 0, 0)
        assert overlays.place_of(target) == place
        assert overlays.reclaim() == 0
    finally:
        overlays.unmount(target, place)
    assert list(target.iterdir()) == []
    assert list(store.mounts.iterdir()) == []


@pytest.mark.root
@pytest.mark.mount
def test_the_root_directory_is_as_the_layer_says(memory: Path, store: Store) -> None:
    target = memory / "rootfs"
    target.mkdir()
    overlays = Overlays(store)
    root = RootEntry(mode=0o1750, uid=5, gid=6, mtime=7_000_000_001, atime=8)
    place = overlays.mount(trees(memory, 1), target, root)
    try:
        status = target.stat()
        found = (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns)
        assert found == (0o1750, 5, 6, 7_000_000_001)
    finally:
        overlays.unmount(target, place)


@pytest.mark.root
@pytest.mark.mount
def test_the_old_call_mounts_127_layers_too(memory: Path) -> None:
    target, upper, work = (memory / name for name in ("t", "u", "w"))
    for directory in (target, upper, work):
        directory.mkdir()
    mount_old(trees(memory, 127), upper, work, target)
    try:
        assert len(list(target.iterdir())) == 128
        (target / "new").write_bytes(b"")
    finally:
        syscalls.unmount(os.fsencode(target), detach=True)


@pytest.mark.root
@pytest.mark.mount
@pytest.mark.spec("image-pull", 49)
def test_directories_of_a_mount_that_somebody_else_undid_are_reclaimed(
    memory: Path, store: Store
) -> None:
    overlays = Overlays(store)
    targets = [memory / "one", memory / "two"]
    for target in targets:
        target.mkdir()
        overlays.mount(trees(memory, 1) if target is targets[0] else [], target, None)
    (targets[0] / "big").write_bytes(b"x" * 1000)
    syscalls.unmount(os.fsencode(targets[0]), detach=False)
    assert overlays.reclaim() == 1
    assert len(list(store.mounts.iterdir())) == 1
    syscalls.unmount(os.fsencode(targets[1]), detach=False)
    assert overlays.reclaim() == 1
    staged = store.staging / "half"
    staged.mkdir()
    store.close()
    again = Store.open(store.root, "boot")
    assert list(again.staging.iterdir()) == []
    again.close()


@pytest.mark.root
@pytest.mark.mount
def test_the_probe_says_that_mounts_work_and_leaves_nothing(store: Store) -> None:
    before = Path(MOUNTINFO).read_bytes()
    assert Overlays(store).why_not() is None
    assert Path(MOUNTINFO).read_bytes() == before
    assert list(store.staging.iterdir()) == []


def test_a_mount_that_fails_says_so_and_leaves_nothing(memory: Path, store: Store) -> None:
    target = memory / "rootfs"
    target.mkdir()
    with pytest.raises(PlatformError, match="overlay cannot be mounted on"):
        Overlays(store).mount([memory / "missing"], target, None)
    assert list(store.mounts.iterdir()) == []
    assert list(target.iterdir()) == []
