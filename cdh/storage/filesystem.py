"""File systems on a mapping: made, mounted, unmounted.

Source: docs/spec/confidential-data-hub.md 10.3, steps 3 to 5.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cdh.storage.base import StorageSite
from cdh.storage.blocking import run_blocking
from cdh.storage.kernel import real_path
from cdh.storage.mkfs import superblocks, with_integrity
from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError

KIND: Final = "ext4"
MODE: Final = 0o755
"""Of mount points that are made, and of the directories above them."""


class FileSystems:
    """What is done with file systems on this machine."""

    def __init__(self, site: StorageSite) -> None:
        self._site = site

    async def make(
        self, node: str, options: Sequence[str], *, integrity: bool, deadline: Deadline
    ) -> None:
        """Put an empty ext4 on a mapping.

        Args:
            node: of the mapping.
            options: further arguments of `mkfs.ext4`.
            integrity: its sectors have tags, and no valid ones yet.
            deadline: when it must be done.

        Raises:
            PlatformError: a program is not installed, or failed.
            DeadlineError: it took too long.
        """
        if integrity:
            await self._tag_superblocks(node, deadline)
            options = with_integrity(options)
        await self._site.check("mkfs.ext4", node, "-F", *options, deadline=deadline)

    async def _tag_superblocks(self, node: str, deadline: Deadline) -> None:
        """Write what `mkfs.ext4` reads before it writes."""
        site = self._site
        await site.check("mkfs.ext4", "-V", deadline=deadline)
        await site.check("dd", "--version", deadline=deadline)
        output = await site.check("mkfs.ext4", "-F", "-n", node, deadline=deadline)
        try:
            blocks = superblocks(output)
        except DecodeError as error:
            raise PlatformError(str(error)) from error
        for block in blocks:
            await site.check(
                "dd", "if=/dev/zero", f"of={node}", "bs=4k", "count=1", "oflag=direct",
                f"seek={block}", deadline=deadline,
            )  # fmt: skip

    async def mount(self, node: str, mount_point: str, undo: UndoStack, deadline: Deadline) -> None:
        """Mount an ext4 without access times; the mount point is made where it is missing.

        Raises:
            PlatformError: the kernel refuses, or the mount point cannot be made.
            DeadlineError: it took too long.
        """
        await make_mount_point(mount_point, undo, deadline)
        target = await push_unmount(self._site, mount_point, undo, deadline)
        await run_blocking(
            lambda: self._site.kernel.mount(node, target, KIND),
            f"mount of {node} on {mount_point}",
            deadline,
        )


async def make_mount_point(mount_point: str, undo: UndoStack, deadline: Deadline) -> None:
    """Make a directory and those above it; what was made goes with the roll-back while empty.

    Raises:
        PlatformError: it cannot be made, or is no directory.
    """
    path = Path(mount_point)

    def look() -> list[Path]:
        return [each for each in (path, *path.parents) if not os.path.lexists(each)]

    missing = await run_blocking(look, f"look at {mount_point}", deadline)

    async def remove(deadline: Deadline) -> None:
        def work() -> None:
            for each in missing:
                try:
                    each.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                        raise
                    return

        await run_blocking(work, f"removal of {mount_point}", deadline)

    if missing:
        undo.push(f"mount point {mount_point}", remove)

    def make() -> None:
        path.mkdir(parents=True, exist_ok=True)
        for each in missing:
            each.chmod(MODE)  # the umask is not what decides this

    await run_blocking(make, f"making of mount point {mount_point}", deadline)


async def push_unmount(
    site: StorageSite, mount_point: str, undo: UndoStack, deadline: Deadline
) -> bytes:
    """Note that what will be mounted there next goes with the roll-back; give its real path.

    Raises:
        PlatformError: mounts cannot be listed.
        DeadlineError: the mount point does not answer.
    """
    kernel = site.kernel

    def look() -> tuple[bytes, int]:
        target = real_path(mount_point)
        return target, kernel.count(target)

    target, before = await run_blocking(look, f"look at {mount_point}", deadline)

    def work() -> None:
        if kernel.count(target) > before:
            kernel.unmount(target)

    async def unmount(deadline: Deadline) -> None:
        await run_blocking(work, f"unmounting of {mount_point}", deadline)

    undo.push(f"mount on {mount_point}", unmount)
    return target
