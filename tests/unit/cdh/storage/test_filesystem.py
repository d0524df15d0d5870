"""File systems on mappings: what the dry run must say, mount points that are made and removed."""

import stat
from pathlib import Path

import pytest

from cdh.storage.filesystem import FileSystems, make_mount_point
from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.errors import PlatformError
from support.storage_world import StorageWorld


def soon() -> Deadline:
    return Deadline.after(20)


async def test_a_dry_run_that_cannot_be_understood_ends_it(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    (tmp_path / "dry-run").write_bytes(b"Superblock backups stored on blocks: none\n")
    systems = FileSystems(world.site)
    with pytest.raises(PlatformError, match="announces superblock backups and names none"):
        await systems.make("/dev/x", (), integrity=True, deadline=soon())
    assert [call.argv[0] for call in world.calls()] == ["mkfs.ext4", "dd", "mkfs.ext4"]


async def test_a_small_volume_has_no_backups_and_is_made_all_the_same(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    (tmp_path / "dry-run").write_bytes(b"Creating filesystem with 16384 4k blocks\n")
    await FileSystems(world.site).make("/dev/x", (), integrity=True, deadline=soon())
    assert [call.argv[-1] for call in world.calls() if call.argv[0] == "dd"] == [
        "--version",
        "seek=0",
    ]


async def test_what_was_made_of_a_mount_point_goes_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "c"
    (tmp_path / "a").mkdir()
    for filled in (False, True):
        undo = UndoStack()
        await make_mount_point(str(place), undo, soon())
        assert stat.S_IMODE(place.stat().st_mode) == 0o755
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o755
        if filled:
            (place.parent / "file").touch()
        assert await undo.roll_back() == ()
        assert (place.exists(), place.parent.exists()) == (False, filled)
        assert (tmp_path / "a").exists()


async def test_a_mount_point_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "there"
    place.mkdir(mode=0o700)
    undo = UndoStack()
    await make_mount_point(str(place), undo, soon())
    await undo.roll_back()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError):
        await make_mount_point(str(tmp_path / "file"), undo, soon())
    with pytest.raises(PlatformError):
        await make_mount_point(str(tmp_path / "file" / "x"), undo, soon())
    await undo.roll_back()
