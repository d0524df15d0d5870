"""Block devices: which device, which key, whether it may be initialised; then LUKS2 or ZFS.

Source: docs/spec/confidential-data-hub.md 10.2 and 10.6; docs/adr (secure mount).
"""

from collections.abc import Callable, Mapping
from typing import assert_never

from cdh.storage.base import KeySource, StorageSite
from cdh.storage.blocking import run_blocking
from cdh.storage.device import Device, find_device, verify_blank
from cdh.storage.luks2 import Luks2, random_key, random_name
from cdh.storage.options import BlockDeviceOptions, LuksOptions, SourceType, ZfsOptions
from cdh.storage.undo import UndoStack
from cdh.storage.zfs import Zfs, random_passphrase
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError
from guest.secret import Secret

Parse = Callable[[Mapping[str, str]], BlockDeviceOptions]


class BlockDeviceDriver:
    """Makes volumes of requests.

    Args:
        site: this machine.
        keys: finds the keys that requests name.
        parse: reads the options.
    """

    def __init__(self, site: StorageSite, keys: KeySource, parse: Parse) -> None:
        self._site = site
        self._keys = keys
        self._parse = parse

    def __call__(self, options: Mapping[str, str], mount_point: str) -> "BlockDeviceVolume":
        """See `VolumeParser`."""
        try:
            parsed = self._parse(options)
        except DecodeError as error:
            raise InvalidInputError(str(error)) from error
        return BlockDeviceVolume(self._site, self._keys, parsed, mount_point)


class BlockDeviceVolume:
    """One device that is about to be mounted.

    Args:
        site: this machine.
        keys: finds the key.
        options: what was asked for.
        mount_point: where it goes.
    """

    def __init__(
        self, site: StorageSite, keys: KeySource, options: BlockDeviceOptions, mount_point: str
    ) -> None:
        self._site = site
        self._keys = keys
        self._options = options
        self._mount_point = mount_point
        self._mapper_name = random_name()
        self._device: Device | None = None
        self._key: Secret | None = None

    async def prepare(self, deadline: Deadline) -> tuple[str, ...]:
        """See `Volume.prepare`."""
        options = self._options
        if options.source is SourceType.ENCRYPTED and options.key is None:
            raise InvalidInputError("sourceType encrypted needs a key")
        device = await run_blocking(
            lambda: find_device(self._site, options.numbers, options.path),
            f"look at {options.path or options.numbers}",
            deadline,
        )
        self._device = device
        if options.key is not None:
            self._key = await self._keys.fetch(options.key, deadline)
        identity = "device " + ":".join(str(number) for number in device.identity)
        match options.encryption:
            case LuksOptions(mapper_name=name):
                self._mapper_name = name or self._mapper_name
                self._key = self._key or random_key()
                return identity, f"mapping {self._mapper_name}"
            case ZfsOptions(pool=pool):
                self._key = self._key or random_passphrase()
                return identity, f"pool {pool}"
            case other:
                assert_never(other)

    async def mount(self, undo: UndoStack, deadline: Deadline) -> None:
        """See `Volume.mount`."""
        device, key, options = self._device, self._key, self._options
        assert device is not None, "not prepared"
        assert key is not None, "not prepared"
        site = self._site
        await run_blocking(lambda: device.verify_free(site), f"look at {device.path}", deadline)
        # Compat: upstream initialises whatever it is pointed at. A key that is kept makes a volume
        # that is kept: one that cannot be told from a used one is not overwritten unasked.
        must_be_blank = (
            options.source is SourceType.EMPTY and options.key is not None and not options.force
        )
        if must_be_blank:
            await verify_blank(site, device, deadline)
        if isinstance(options.encryption, ZfsOptions):
            zfs = Zfs(
                site=site,
                device=device,
                options=options.encryption,
                mount_point=self._mount_point,
            )
            await zfs.mount(options.source, key, undo=undo, deadline=deadline)
            return
        luks = Luks2(
            site=site,
            device=device,
            options=options.encryption,
            name=self._mapper_name,
            mount_point=self._mount_point,
        )
        await luks.mount(options.source, key, is_blank=must_be_blank, undo=undo, deadline=deadline)

    def wipe(self) -> None:
        """See `Volume.wipe`."""
        if self._key is not None:
            self._key.wipe()
