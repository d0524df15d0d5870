"""ZFS volumes: command lines, passphrases, nothing left of what failed."""

import re
from pathlib import Path

import pytest

from guest.errors import InvalidInputError, PlatformError
from support.storage_world import StorageWorld

ZFS: dict[str, str | None] = {
    "encryptionType": "zfs",
    "targetType": None,
    "pool": "p1",
    "dataset": "d1",
}
KEYED = ZFS | {"key": "kbs:///default/key/text"}


@pytest.mark.spec("confidential-data-hub", 51)
async def test_an_ephemeral_volume_has_a_passphrase_that_zfs_takes(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    await world.mount(world.options(**ZFS))
    calls = world.calls()
    assert [call.argv for call in calls] == [
        ("zpool", "list"),
        ("zpool", "create", "-f", "p1", str(world.device)),
        (
            "zfs", "create", "-o", "encryption=aes-256-gcm", "-o", "keyformat=passphrase",
            "-o", f"mountpoint={world.place}", "p1/d1",
        ),
    ]  # fmt: skip
    assert re.fullmatch(rb"([0-9a-f]{64})\n\1\n", calls[-1].stdin)
    assert Path(world.place).is_dir()


async def test_an_old_volume_is_imported_without_mounting_anything_else(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    await world.mount(world.options(**KEYED | {"sourceType": "encrypted"}))
    calls = world.calls()
    assert [call.argv for call in calls] == [
        ("zpool", "list"),
        ("zpool", "import", "-N", "-d", str(world.device), "p1"),
        ("zfs", "load-key", "p1/d1"),
        ("zfs", "set", "canmount=noauto", "p1/d1"),
        ("zfs", "set", f"mountpoint={world.place}", "p1/d1"),
        ("zfs", "mount", "p1/d1"),
    ]
    assert calls[2].stdin == b"a passphrase\n\na passphrase\n\n"
    await world.mounts.unmount(world.place)
    assert world.calls()[-1].argv == ("zpool", "export", "p1")


async def test_zfs_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = "zfs is not installed. Please install zfsutils-linux and enable the zfs module"
    world = StorageWorld(tmp_path)
    world.set_failure(0)
    with pytest.raises(PlatformError, match=text):
        await world.mount(world.options(**ZFS))
    (world.base / "bin" / "zpool").unlink()
    with pytest.raises(PlatformError, match=text):
        await world.mount(world.options(**ZFS))
    assert world.left() == []


@pytest.mark.parametrize("options", [ZFS, KEYED, KEYED | {"sourceType": "encrypted"}])
async def test_whichever_program_fails_nothing_is_left(
    tmp_path: Path, options: dict[str, str | None]
) -> None:
    (tmp_path / "all").mkdir()
    world = StorageWorld(tmp_path / "all")
    await world.mount(world.options(**options))
    for number in range(len(world.calls())):
        (tmp_path / str(number)).mkdir()
        world = StorageWorld(tmp_path / str(number))
        world.set_failure(number)
        with pytest.raises(PlatformError):
            await world.mount(world.options(**options))
        assert world.left() == [], number


async def test_a_pool_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    (world.base / "pools").write_text("p1  10G\n")
    with pytest.raises(PlatformError, match="there is a pool p1 already"):
        await world.mount(world.options(**ZFS))
    assert [call.argv for call in world.calls()] == [("zpool", "list")]


async def test_a_new_pool_that_is_unmounted_is_not_destroyed(tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    await world.mount(world.options(**KEYED))
    await world.mounts.unmount(world.place)
    assert "destroy" not in [call.argv[1] for call in world.calls()]


@pytest.mark.parametrize("key", [b"short12", b"x" * 513, b"\n12345678"])
async def test_a_key_that_cannot_be_a_passphrase_is_refused(tmp_path: Path, key: bytes) -> None:
    world = StorageWorld(tmp_path)
    world.resources.resources = {"default/key/text": key}
    with pytest.raises(InvalidInputError, match="first line has"):
        await world.mount(world.options(**KEYED | {"sourceType": "encrypted"}))
    assert world.calls() == []
