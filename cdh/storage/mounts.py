"""Secure mounts: one after another on each device, all or nothing, known until they are gone.

Source: docs/spec/confidential-data-hub.md 10.6.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import msgspec

from cdh.storage.base import MountCalls, VolumeParser
from cdh.storage.blocking import run_blocking
from cdh.storage.kernel import real_path
from cdh.storage.options import parse_mount_point
from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, InvalidInputError, LimitError, NotFoundError

log = logging.getLogger(__name__)

MAX_TURNS: Final = 256
"""Most devices, mappings, pools and mount points that are being worked on at one time."""

UNMOUNT_SECONDS: Final = 60.0
"""Seconds for the unmounting of one volume when it was asked for."""


EXIT_SECONDS: Final = 8.0
"""Seconds for the unmounting of one volume when the process ends."""


class Turns:
    """One at a time for each name."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def taken(self, name: str, deadline: Deadline) -> AsyncIterator[None]:
        """Be the only one with `name`.

        Raises:
            LimitError: too many are being worked on.
            DeadlineError: the one before does not end.
        """
        if name not in self._locks and len(self._locks) >= MAX_TURNS:
            raise LimitError("too many volumes are being mounted at once")
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with deadline.limit(f"the work before this one on {name}"):
                await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]


class Mounted(msgspec.Struct, frozen=True):
    """A volume that was mounted here.

    Attributes:
        mount_point: where it went.
        names: what was worked on.
        undo: takes it back.
    """

    mount_point: str
    names: frozenset[str]
    undo: UndoStack


class SecureMounts:
    """The use case.

    Args:
        parsers: by the volume types that requests name.
        kernel: knows what is mounted.
        unmount_at_exit: unmount what was mounted here when the process ends in good order.
    """

    def __init__(
        self,
        parsers: Mapping[str, VolumeParser],
        kernel: MountCalls,
        *,
        unmount_at_exit: bool = False,
    ) -> None:
        self._parsers = parsers
        self._kernel = kernel
        self._unmount_at_exit = unmount_at_exit
        self._turns = Turns()
        self._mounted: list[Mounted] = []

    async def mount(
        self, volume_type: str, options: Mapping[str, str], mount_point: str, deadline: Deadline
    ) -> None:
        """Mount a volume; a caller that is cancelled, or fails, leaves nothing behind.

        Args:
            volume_type: exactly as specified.
            options: for the type; all values are text.
            mount_point: an absolute path.
            deadline: when it must be done; taking back what was begun may take longer.

        Raises:
            InvalidInputError: the request can never succeed.
            GuestError: a key is not to be had, a program is missing or fails, the kernel refuses.
        """
        if volume_type not in self._parsers:
            raise InvalidInputError(f"there are no volumes of type {volume_type[:40]!r}")
        try:
            place = parse_mount_point(mount_point)
        except DecodeError as error:
            raise InvalidInputError(str(error)) from error
        volume = self._parsers[volume_type](options, place)
        undo = UndoStack()
        try:
            names = frozenset((*await volume.prepare(deadline), f"mount point {place}"))
            async with self._turns_of(names, deadline):
                await self._reclaim(names, deadline)
                try:
                    await volume.mount(undo, deadline)
                except BaseException:
                    await undo.roll_back()
                    raise
                undo.commit()
                self._mounted.append(Mounted(place, names, undo))
        finally:
            volume.wipe()

    @asynccontextmanager
    async def _turns_of(self, names: frozenset[str], deadline: Deadline) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name in sorted(names):  # in one order, so that no two wait for each other
                await stack.enter_async_context(self._turns.taken(name, deadline))
            yield

    async def _reclaim(self, names: frozenset[str], deadline: Deadline) -> None:
        """Take back what is left of earlier mounts that somebody else has unmounted since."""
        for mounted in [each for each in self._mounted if each.names & names]:
            place = mounted.mount_point
            if await run_blocking(partial(self._is_gone, place), f"look at {place}", deadline):
                await mounted.undo.roll_back()
                self._mounted.remove(mounted)

    def _is_gone(self, mount_point: str) -> bool:
        """Whether neither a mount nor a link is there any more. Blocks."""
        return not os.path.islink(mount_point) and self._kernel.count(real_path(mount_point)) == 0

    async def unmount(self, mount_point: str, seconds: float = UNMOUNT_SECONDS) -> None:
        """Unmount a volume that was mounted here, with everything below it.

        Raises:
            NotFoundError: none was.
            DeadlineError: it is being worked on.
            GuestError: a part of it stays; says which.
        """
        place = mount_point.rstrip("/")
        mounted = next((each for each in self._mounted if each.mount_point == place), None)
        if mounted is None:
            raise NotFoundError(f"nothing was mounted on {mount_point[:200]} here")
        async with self._turns_of(mounted.names, Deadline.after(seconds)):
            left = await mounted.undo.roll_back(seconds)
            if left:
                raise InvalidInputError(f"not unmounted: {', '.join(left)}")
            if mounted in self._mounted:
                self._mounted.remove(mounted)

    async def close(self) -> None:
        """The process ends: unmount, the last one first, if that was asked for."""
        while self._unmount_at_exit and self._mounted:
            mounted = self._mounted[-1]
            try:
                await self.unmount(mounted.mount_point, EXIT_SECONDS)
                log.info("volume unmounted", extra={"mount_point": mounted.mount_point})
            except GuestError as error:
                extra = {"mount_point": mounted.mount_point, "causes": list(error.causes())}
                log.error("volume stays mounted", extra=extra)
                self._mounted.remove(mounted)
