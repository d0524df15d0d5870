"""The options of a block device, as text from an untrusted caller. Sans-I/O.

Source: docs/spec/confidential-data-hub.md 10.2 and 10.6.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from cdh.storage.mkfs import parse_options
from guest.errors import DecodeError

MAX_PATH_LENGTH: Final = 180
"""Most bytes of a device's path: its base64 form is part of a file name."""

MAX_MOUNT_POINT_LENGTH: Final = 1024

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,126}\Z")
_NUMBERS: Final = re.compile(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

DEFAULT_POOL: Final = "zpool"
DEFAULT_DATASET: Final = "zdataset"


class SourceType(StrEnum):
    """`empty` is initialised, which destroys what was there; `encrypted` is opened."""

    EMPTY = "empty"
    ENCRYPTED = "encrypted"


class EncryptionType(StrEnum):
    """Who encrypts."""

    LUKS2 = "luks2"
    ZFS = "zfs"


class TargetType(StrEnum):
    """`device` links the mount point to the mapping; `fileSystem` mounts it."""

    DEVICE = "device"
    FILE_SYSTEM = "fileSystem"


class FileSystemType(StrEnum):
    """File systems that are made."""

    EXT4 = "ext4"


class HeaderLocation(StrEnum):
    """Where the header of a new volume is; one in `tmpfs` does not outlive this boot."""

    TMPFS = "tmpfs"
    DEVICE = "device"


class LuksOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What LUKS2 is told.

    Attributes:
        target: what the mount point becomes.
        mkfs: options for a new file system.
        integrity: every sector has a tag.
        mapper_name: None for a random one.
        header: where a new header goes.
    """

    target: TargetType
    mkfs: tuple[str, ...]
    integrity: bool
    mapper_name: str | None
    header: HeaderLocation


class ZfsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ZFS is told: the names of pool and data set."""

    pool: str
    dataset: str


class BlockDeviceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        numbers: major and minor of the device; rules over `path`.
        path: of the device; None only beside `numbers`.
        source: whether it is initialised or opened.
        key: where the key is; None for a random one that is forgotten.
        force: initialise it with a persistent key although something is on it.
        encryption: what the encryption is told.
    """

    numbers: tuple[int, int] | None
    path: str | None
    source: SourceType
    key: str | None
    force: bool
    encryption: LuksOptions | ZfsOptions


def parse_block_device(options: Mapping[str, str]) -> BlockDeviceOptions:
    """Read the options of `block-device`; unknown ones are ignored.

    Raises:
        DecodeError: one is missing or has no value that it can have; names it.
    """
    device_id, path = options.get("deviceId"), options.get("devicePath")
    numbers = None
    if device_id is not None:
        match = _NUMBERS.match(device_id)
        if match is None:
            raise DecodeError(f"deviceId {device_id[:40]!r} is not <major>:<minor>")
        numbers = (int(match[1]), int(match[2]))
    elif path is None:
        raise DecodeError("neither deviceId nor devicePath is given")
    else:
        path = parse_path(path, "devicePath", MAX_PATH_LENGTH)
    encryption: LuksOptions | ZfsOptions
    source = _word(options, "sourceType", SourceType)
    if _word(options, "encryptionType", EncryptionType) is EncryptionType.LUKS2:
        encryption = _luks(options)
    else:
        encryption = ZfsOptions(
            pool=_name(options, "pool") or DEFAULT_POOL,
            dataset=_name(options, "dataset") or DEFAULT_DATASET,
        )
    return BlockDeviceOptions(
        numbers=numbers,
        path=None if numbers else path,
        source=source,
        key=options.get("key"),
        force=options.get("force") == "true",
        encryption=encryption,
    )


def parse_old_block_device(options: Mapping[str, str]) -> BlockDeviceOptions:
    """Read the options of `BlockDevice`, the name of older kata versions.

    A volume with a key is opened, never made anew: what it was once called "already encrypted".

    Raises:
        DecodeError: one is missing or has no value that it can have; names it.
    """
    for name in ("deviceId", "dataIntegrity"):
        if name not in options:
            raise DecodeError(f"option {name} is missing")
    if options.get("encryptType") != "LUKS":
        raise DecodeError("encryptType is not LUKS")
    key = options.get("encryptKey")
    modern = {
        "deviceId": options["deviceId"],
        "dataIntegrity": options["dataIntegrity"],
        "sourceType": SourceType.EMPTY if key is None else SourceType.ENCRYPTED,
        "encryptionType": EncryptionType.LUKS2,
        "targetType": TargetType.FILE_SYSTEM,
    }
    return parse_block_device(modern if key is None else modern | {"key": key})


def parse_mount_point(text: str) -> str:
    """An absolute path other than `/`, without `.` and `..`; slashes at its end are dropped.

    Raises:
        DecodeError: it is none.
    """
    path = parse_path(text, "mount point", MAX_MOUNT_POINT_LENGTH).rstrip("/")
    if not path.strip("/"):
        raise DecodeError("the mount point is the root directory")
    return path


def parse_path(text: str, what: str, limit: int) -> str:
    """An absolute path of at most `limit` bytes, without `.` and `..` and control characters.

    Raises:
        DecodeError: it is none.
    """
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise DecodeError(f"{what} is not UTF-8") from error
    if not text.startswith("/") or length > limit or _CONTROL.search(text):
        raise DecodeError(f"{what} {text[:80]!r} is no absolute path of at most {limit} bytes")
    if {".", ".."} & set(text.split("/")):
        raise DecodeError(f"{what} {text[:80]!r} has a part '.' or '..'")
    return text


def _luks(options: Mapping[str, str]) -> LuksOptions:
    location = HeaderLocation.DEVICE if "key" in options else HeaderLocation.TMPFS
    if "filesystemType" in options:
        _word(options, "filesystemType", FileSystemType)
    if "headerLocation" in options:
        location = _word(options, "headerLocation", HeaderLocation)
    try:
        mkfs = parse_options(options.get("mkfsOpts", ""))
    except DecodeError as error:
        raise DecodeError(f"mkfsOpts: {error}") from error
    return LuksOptions(
        target=_word(options, "targetType", TargetType),
        mkfs=mkfs,
        integrity=options.get("dataIntegrity") == "true",
        mapper_name=_name(options, "mapperName"),
        header=location,
    )


Word = TypeVar("Word", bound=StrEnum)


def _word(options: Mapping[str, str], name: str, kind: type[Word]) -> Word:
    if name not in options:
        raise DecodeError(f"option {name} is missing")
    try:
        return kind(options[name])
    except ValueError as error:
        raise DecodeError(f"option {name} cannot be {options[name][:40]!r}") from error


def _name(options: Mapping[str, str], option: str) -> str | None:
    """A name that no program takes for an option or a path; None when there is none."""
    name = options.get(option)
    if name is not None and not _NAME.match(name):
        raise DecodeError(f"option {option} cannot be {name[:40]!r}")
    return name
