"""The kinds of volumes: the only place that names them all.

Source: docs/spec/confidential-data-hub.md 10.1.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from cdh.storage.base import KeySource, StorageSite, Volume, VolumeParser
from cdh.storage.mounts import SecureMounts


class VolumeEntry(msgspec.Struct, frozen=True):
    """One kind of volume.

    Attributes:
        name: as requests spell it, case included.
        open: makes its parser; imports what it needs.
    """

    name: str
    open: Callable[[StorageSite, KeySource], VolumeParser]


def _open_block_device(site: StorageSite, keys: KeySource) -> VolumeParser:
    from cdh.storage.block_device import BlockDeviceDriver
    from cdh.storage.options import parse_block_device

    return BlockDeviceDriver(site, keys, parse_block_device)


def _open_old_block_device(site: StorageSite, keys: KeySource) -> VolumeParser:
    from cdh.storage.block_device import BlockDeviceDriver
    from cdh.storage.options import parse_old_block_device

    return BlockDeviceDriver(site, keys, parse_old_block_device)


def _open_oss(site: StorageSite, keys: KeySource) -> VolumeParser:
    from cdh.storage.alibaba_oss import OssDriver

    return OssDriver(site, keys)


VOLUMES: Final = (
    VolumeEntry("block-device", _open_block_device),
    VolumeEntry("BlockDevice", _open_old_block_device),  # Compat: kata before 2025, and forks
    VolumeEntry("alibaba-cloud-oss", _open_oss),
)


class LateParser:
    """Opens a kind of volume when the first one is asked for."""

    def __init__(self, entry: VolumeEntry, site: StorageSite, keys: KeySource) -> None:
        self._open = entry.open
        self._site = site
        self._keys = keys
        self._parser: VolumeParser | None = None

    def __call__(self, options: Mapping[str, str], mount_point: str) -> Volume:
        """See `VolumeParser`."""
        if self._parser is None:
            self._parser = self._open(self._site, self._keys)
        return self._parser(options, mount_point)


def open_mounts(
    site: StorageSite, keys: KeySource, *, unmount_at_exit: bool = False
) -> SecureMounts:
    """What mounts volumes of all kinds."""
    parsers = {entry.name: LateParser(entry, site, keys) for entry in VOLUMES}
    return SecureMounts(parsers, site.kernel, unmount_at_exit=unmount_at_exit)
