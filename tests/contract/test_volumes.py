"""Every kind of volume: one name, options that are read or refused by name, nothing left."""

from pathlib import Path

import pytest

from cdh.storage import VOLUMES, VolumeEntry
from guest.deadline import Deadline
from guest.errors import GuestError, InvalidInputError
from support.storage_world import StorageWorld

OPTIONS = {
    "block-device": {
        "sourceType": "empty",
        "encryptionType": "luks2",
        "targetType": "fileSystem",
    },
    "BlockDevice": {"encryptType": "LUKS", "dataIntegrity": "false"},
    "alibaba-cloud-oss": {
        "akId": "id",
        "akSecret": "canary",
        "bucket": "b",
        "otherOpts": "",
        "path": "/",
        "readonly": "",
        "targetPath": "",
        "url": "http://x",
        "volumeId": "",
    },
}
"""What each kind needs, but for the device."""


def complete(world: StorageWorld, name: str) -> dict[str, str]:
    """Options that would do."""
    options = dict(OPTIONS[name])
    if name == "block-device":
        options["devicePath"] = str(world.device)
    if name == "BlockDevice":
        options["deviceId"] = "8:16"
        folder = world.base / "sys" / "dev" / "block" / "8:16"
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "uevent").write_text("DEVNAME=disk\n")
    return options


def test_every_kind_has_one_name_and_options_here() -> None:
    names = [entry.name for entry in VOLUMES]
    assert sorted(names) == sorted(OPTIONS)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("entry", VOLUMES, ids=lambda entry: str(entry.name))
async def test_an_option_that_is_missing_is_named(entry: VolumeEntry, tmp_path: Path) -> None:
    world = StorageWorld(tmp_path)
    options = complete(world, entry.name)
    for missing in options:
        less = {name: value for name, value in options.items() if name != missing}
        word = missing if missing != "devicePath" else "deviceId nor devicePath"
        with pytest.raises(InvalidInputError, match=word) as caught:
            await world.mounts.mount(entry.name, less, world.place, Deadline.after(20))
        assert "canary" not in " ".join(caught.value.causes())
    assert (world.calls(), world.left()) == ([], [])


@pytest.mark.parametrize("entry", VOLUMES, ids=lambda entry: str(entry.name))
async def test_the_first_program_that_fails_leaves_nothing(
    entry: VolumeEntry, tmp_path: Path
) -> None:
    world = StorageWorld(tmp_path)
    Path(world.place).mkdir()
    world.set_failure(0)
    with pytest.raises(GuestError) as caught:
        await world.mounts.mount(
            entry.name, complete(world, entry.name), world.place, Deadline.after(20)
        )
    assert "injected failure" in str(caught.value)
    assert "canary" not in " ".join(caught.value.causes())
    assert world.left() == ["mount point"]
