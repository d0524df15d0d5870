"""ZFS volumes: one pool on one device, one encrypted data set in it.

Source: docs/spec/confidential-data-hub.md 10.4.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from cdh.storage.base import StorageSite
from cdh.storage.device import Device
from cdh.storage.filesystem import make_mount_point
from cdh.storage.options import SourceType, ZfsOptions
from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PlatformError
from guest.secret import Secret

NOT_INSTALLED: Final = (
    "zfs is not installed. Please install zfsutils-linux and enable the zfs module in the kernel."
)

MIN_PASSPHRASE: Final = 8
MAX_PASSPHRASE: Final = 512
"""Bytes of a passphrase: the first line of the key."""

RANDOM_KEY_BYTES: Final = 32


def random_passphrase() -> Secret:
    """A passphrase for one boot: 64 hexadecimal digits."""
    return Secret(secrets.token_hex(RANDOM_KEY_BYTES).encode())


def verify_passphrase(key: Secret) -> None:
    """Require a first line that ZFS takes.

    Raises:
        InvalidInputError: it is too short or too long.
    """
    length = len(key.reveal().partition(b"\n")[0])
    if not MIN_PASSPHRASE <= length <= MAX_PASSPHRASE:
        raise InvalidInputError(
            f"the key's first line has {length} bytes, not {MIN_PASSPHRASE} to {MAX_PASSPHRASE}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Zfs:
    """One ZFS volume that is about to be mounted.

    Attributes:
        site: this machine.
        device: what it lies on; nobody else works on it now.
        options: names of pool and data set; nobody else works on the pool now.
        mount_point: where it goes.
    """

    site: StorageSite
    device: Device
    options: ZfsOptions
    mount_point: str

    async def mount(
        self, source: SourceType, key: Secret, *, undo: UndoStack, deadline: Deadline
    ) -> None:
        """Create or import, then mount.

        Raises:
            InvalidInputError: the key cannot be a passphrase.
            PlatformError: ZFS is missing, a program failed, or there is such a pool.
            DeadlineError: it took too long.
        """
        verify_passphrase(key)
        if self.options.pool in await self._pools(deadline):
            raise PlatformError(f"there is a pool {self.options.pool} already")
        with Secret(b"\n".join((key.reveal(), key.reveal(), b""))) as lines:
            if source is SourceType.EMPTY:
                await self._create(lines, undo, deadline)
            else:
                await self._import(lines, undo, deadline)

    async def _pools(self, deadline: Deadline) -> frozenset[str]:
        try:
            output = await self.site.check("zpool", "list", deadline=deadline)
        except PlatformError as error:
            raise PlatformError(NOT_INSTALLED) from error
        rows = (line.split() for line in output.decode("utf-8", "replace").splitlines()[1:])
        return frozenset(row[0] for row in rows if row)

    async def _create(self, lines: Secret, undo: UndoStack, deadline: Deadline) -> None:
        pool, dataset = self.options.pool, f"{self.options.pool}/{self.options.dataset}"
        export = undo.push(f"pool {pool}", self._export)
        destroy = undo.push(f"new pool {pool}", self._destroy, failed_only=True)
        done = await self.site.run(
            "zpool", "create", "-f", pool, self.device.path, deadline=deadline
        )
        if done.status > 0:
            undo.drop(destroy)
            undo.drop(export)
        done.verify_success()
        await make_mount_point(self.mount_point, undo, deadline)
        await self.site.check(
            "zfs", "create", "-o", "encryption=aes-256-gcm", "-o", "keyformat=passphrase",
            "-o", f"mountpoint={self.mount_point}", dataset, deadline=deadline, stdin=lines,
        )  # fmt: skip

    async def _import(self, lines: Secret, undo: UndoStack, deadline: Deadline) -> None:
        pool, dataset = self.options.pool, f"{self.options.pool}/{self.options.dataset}"
        site = self.site
        export = undo.push(f"pool {pool}", self._export)
        # -N: a pool from a host's disk must not mount what else is in it, where it says.
        done = await site.run(
            "zpool", "import", "-N", "-d", self.device.path, pool, deadline=deadline
        )
        if done.status > 0:
            undo.drop(export)
        done.verify_success()
        await site.check("zfs", "load-key", dataset, deadline=deadline, stdin=lines)
        await site.check("zfs", "set", "canmount=noauto", dataset, deadline=deadline)
        mount_point = f"mountpoint={self.mount_point}"
        await site.check("zfs", "set", mount_point, dataset, deadline=deadline)
        await site.check("zfs", "mount", dataset, deadline=deadline)

    async def _destroy(self, deadline: Deadline) -> None:
        if self.options.pool in await self._pools(deadline):
            await self.site.check("zpool", "destroy", self.options.pool, deadline=deadline)

    async def _export(self, deadline: Deadline) -> None:
        if self.options.pool in await self._pools(deadline):
            await self.site.check("zpool", "export", self.options.pool, deadline=deadline)
