"""Options of block devices: what is read, what is refused and named."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdh.storage.options import (
    BlockDeviceOptions,
    HeaderLocation,
    LuksOptions,
    SourceType,
    TargetType,
    ZfsOptions,
    parse_block_device,
    parse_mount_point,
    parse_old_block_device,
)
from guest.errors import DecodeError

KATA = {
    "deviceId": "8:16",
    "sourceType": "empty",
    "targetType": "fileSystem",
    "filesystemType": "ext4",
    "mkfsOpts": "-O ^has_journal -m 0 -i 163840 -I 128",
    "encryptionType": "luks2",
    "dataIntegrity": "true",
}
CAA = {
    "devicePath": "/dev/vdc",
    "sourceType": "encrypted",
    "targetType": "fileSystem",
    "encryptionType": "luks2",
    "filesystemType": "ext4",
    "key": "kbs:///volumes/keys/1",
    "mapperName": "caa-data",
}


def test_what_kata_and_the_peer_pods_adaptor_send_is_honoured() -> None:
    assert parse_block_device(KATA | {"unknown": "x"}) == BlockDeviceOptions(
        numbers=(8, 16),
        path=None,
        source=SourceType.EMPTY,
        key=None,
        force=False,
        encryption=LuksOptions(
            target=TargetType.FILE_SYSTEM,
            mkfs=tuple(KATA["mkfsOpts"].split()),
            integrity=True,
            mapper_name=None,
            header=HeaderLocation.TMPFS,
        ),
    )
    caa = parse_block_device(CAA)
    assert (caa.path, caa.source, caa.key) == (
        "/dev/vdc", SourceType.ENCRYPTED, "kbs:///volumes/keys/1",
    )  # fmt: skip
    assert isinstance(caa.encryption, LuksOptions)
    assert (caa.encryption.mapper_name, caa.encryption.integrity) == ("caa-data", False)
    assert caa.encryption.header is HeaderLocation.DEVICE
    both = parse_block_device(CAA | {"deviceId": "0:1"})
    assert (both.numbers, both.path) == ((0, 1), None)


def test_zfs_has_names_by_default() -> None:
    options = {"devicePath": "/dev/vdc", "sourceType": "empty", "encryptionType": "zfs"}
    assert parse_block_device(options).encryption == ZfsOptions(pool="zpool", dataset="zdataset")
    named = parse_block_device(options | {"pool": "p.1", "dataset": "d:2", "targetType": "x"})
    assert named.encryption == ZfsOptions(pool="p.1", dataset="d:2")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"deviceId": "8"}, "deviceId"),
        ({"deviceId": "8:1:2"}, "deviceId"),
        ({"deviceId": "../8:1"}, "deviceId"),
        ({"deviceId": "08:1"}, "deviceId"),
        ({"deviceId": "\u0668:1"}, "deviceId"),
        ({"deviceId": None}, "deviceId"),
        ({"deviceId": None, "devicePath": "-x"}, "devicePath"),
        ({"deviceId": None, "devicePath": "dev/x"}, "devicePath"),
        ({"deviceId": None, "devicePath": "/dev/../etc/x"}, "devicePath"),
        ({"deviceId": None, "devicePath": "/dev/x\n"}, "devicePath"),
        ({"deviceId": None, "devicePath": "/dev/" + "x" * 180}, "devicePath"),
        ({"deviceId": None, "devicePath": "/dev/\ud800"}, "devicePath"),
        ({"sourceType": None}, "sourceType"),
        ({"sourceType": "Empty"}, "sourceType"),
        ({"encryptionType": None}, "encryptionType"),
        ({"encryptionType": "luks1"}, "encryptionType"),
        ({"targetType": None}, "targetType"),
        ({"targetType": "filesystem"}, "targetType"),
        ({"filesystemType": "xfs"}, "filesystemType"),
        ({"headerLocation": "disk"}, "headerLocation"),
        ({"mkfsOpts": "-z /etc/x"}, "mkfsOpts"),
        ({"mapperName": ""}, "mapperName"),
        ({"mapperName": "-v"}, "mapperName"),
        ({"mapperName": "../x"}, "mapperName"),
        ({"mapperName": "x\n"}, "mapperName"),
        ({"mapperName": "x" * 128}, "mapperName"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, str | None], name: str) -> None:
    merged: dict[str, str | None] = {**KATA, **changes}
    options = {key: value for key, value in merged.items() if value is not None}
    with pytest.raises(DecodeError, match=name):
        parse_block_device(options)


@pytest.mark.parametrize("name", ["pool", "dataset"])
@pytest.mark.parametrize("value", ["-f", "a/b", "a b", "a@b", ""])
def test_zfs_names_are_no_options_and_no_paths(name: str, value: str) -> None:
    options = {"devicePath": "/dev/v", "sourceType": "empty", "encryptionType": "zfs", name: value}
    with pytest.raises(DecodeError, match=name):
        parse_block_device(options)


def test_the_old_names_mean_the_same_and_never_make_a_keyed_volume_anew() -> None:
    old = {"deviceId": "8:16", "encryptType": "LUKS", "dataIntegrity": "true"}
    parsed = parse_old_block_device(old)
    assert (parsed.source, parsed.key, parsed.numbers) == (SourceType.EMPTY, None, (8, 16))
    keyed = parse_old_block_device(old | {"encryptKey": "kbs:///a/b/c"})
    assert (keyed.source, keyed.key) == (SourceType.ENCRYPTED, "kbs:///a/b/c")
    for name in old:
        with pytest.raises(DecodeError, match=name):
            parse_old_block_device({key: value for key, value in old.items() if key != name})


@pytest.mark.parametrize(
    "text", ["/", "//", "", "mnt", "/a/../b", "/a/./b", "/a\0", "/" + "x" * 1024]
)
def test_a_mount_point_is_an_absolute_plain_path(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_mount_point(text)
    assert parse_mount_point("/run/kata-containers/image/") == "/run/kata-containers/image"


@given(st.dictionaries(st.sampled_from([*KATA, *CAA, "pool"]), st.text(max_size=30)), st.booleans())
def test_any_options_are_read_or_refused(options: dict[str, str], whole: bool) -> None:
    for parse in (parse_block_device, parse_old_block_device):
        with suppress(DecodeError):
            parse((KATA | options) if whole else options)
