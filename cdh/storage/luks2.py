"""LUKS2 volumes: made, checked, opened, closed.

Source: docs/spec/confidential-data-hub.md 10.3.
"""

import os
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdh.storage.base import HEADERS, StorageSite
from cdh.storage.blocking import run_blocking
from cdh.storage.device import Device, copy_header, create, wipe
from cdh.storage.filesystem import FileSystems
from cdh.storage.luks2_header import COPY_LENGTHS, Luks2Header, verify_pinned
from cdh.storage.options import HeaderLocation, LuksOptions, SourceType, TargetType
from cdh.storage.undo import UndoStack
from guest import wire
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, PlatformError
from guest.secret import Secret

HEADER_LENGTH: Final = 16 * 1024 * 1024
"""Bytes of a new header file, none of which take space before they are written."""

RANDOM_KEY_LENGTH: Final = 64
"""Bytes of a key that nobody will ever ask for again."""

STRONG_KEY_LENGTH: Final = 32
"""A key of so many bytes that are no text needs no stretching."""

NO_STRETCHING: Final = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
WITH_INTEGRITY: Final = (
    "--integrity", "hmac-sha256", "--integrity-no-wipe", "--integrity-no-journal",
)  # fmt: skip


def random_key() -> Secret:
    """A key for one boot."""
    return Secret(secrets.token_bytes(RANDOM_KEY_LENGTH))


def is_strong(key: Secret) -> bool:
    """Whether a key is long enough and does not look like something that was typed."""
    is_text = all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in key.reveal())
    return len(key) >= STRONG_KEY_LENGTH and not is_text


def header_name(path: str) -> str:
    """The name of the file that holds a device's detached header."""
    return wire.encode_base64url(path.encode()) + ".header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Luks2:
    """One LUKS2 volume that is about to be mounted.

    Attributes:
        site: this machine.
        device: what it lies on; nobody else works on it now.
        options: what was asked for.
        name: of the mapping; nobody else works on it now.
        mount_point: where it goes.
    """

    site: StorageSite
    device: Device
    options: LuksOptions
    name: str
    mount_point: str

    @property
    def node(self) -> Path:
        """The mapping's node."""
        return self.site.mapper / self.name

    @property
    def header(self) -> Path:
        """The file of a detached header."""
        return self.site.runtime_dir / HEADERS / header_name(self.device.path)

    async def mount(
        self,
        source: SourceType,
        key: Secret,
        *,
        is_blank: bool,
        undo: UndoStack,
        deadline: Deadline,
    ) -> None:
        """Initialise or open, then link or mount.

        Args:
            source: which of the two.
            key: opens it.
            is_blank: nothing that matters is on the device.
            undo: see `Volume.mount`.
            deadline: see `Volume.mount`.

        Raises:
            IntegrityError: the header is not as it must be.
            PlatformError: a program is missing or failed, the kernel or the disk refuses.
            DeadlineError: it took too long.
        """
        if await self._has_node(self.name, deadline):
            raise PlatformError(f"there is a mapping {self.name} already")
        await self._make_folder(deadline)
        if source is SourceType.EMPTY:
            await self._format(key, is_blank=is_blank, undo=undo, deadline=deadline)
        if source is SourceType.EMPTY and self.options.header is HeaderLocation.TMPFS:
            await self._open(key, self.header, detached=True, undo=undo, deadline=deadline)
        else:
            await self._open_copy(key, source, undo, deadline)
        if self.options.target is TargetType.DEVICE:
            await self._link(undo, deadline)
            return
        systems = FileSystems(self.site)
        if source is SourceType.EMPTY:
            await systems.make(
                str(self.node),
                self.options.mkfs,
                integrity=self.options.integrity,
                deadline=deadline,
            )
        await systems.mount(str(self.node), self.mount_point, undo, deadline)

    async def _has_node(self, name: str, deadline: Deadline) -> bool:
        node = self.site.mapper / name
        return await run_blocking(lambda: os.path.lexists(node), f"look at {node}", deadline)

    async def _make_folder(self, deadline: Deadline) -> None:
        folder = self.header.parent
        await run_blocking(
            lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True),
            f"making of {folder}",
            deadline,
        )

    async def _format(
        self, key: Secret, *, is_blank: bool, undo: UndoStack, deadline: Deadline
    ) -> None:
        where: tuple[str, ...] = ()
        wiping = None
        if self.options.header is HeaderLocation.TMPFS:
            where = ("--header", str(self.header))
            await self._create_header(undo, deadline)
        else:
            what = f"header on {self.device.path}"
            wiping = undo.push(what, self._wipe, failed_only=True)
        arguments = (
            "--batch-mode", "luksFormat", "--type", "luks2", "--cipher", "aes-xts-plain64",
            "--sector-size", "4096", *where, *(WITH_INTEGRITY if self.options.integrity else ()),
            *(NO_STRETCHING if is_strong(key) else ()), self.device.path, "-",
        )  # fmt: skip
        try:
            await self.site.check("cryptsetup", *arguments, deadline=deadline, stdin=key)
        except PlatformError:
            if wiping is not None and not is_blank:
                undo.drop(wiping)  # refused at once: what was there is still there
            raise

    async def _create_header(self, undo: UndoStack, deadline: Deadline) -> None:
        def make() -> None:
            self.header.unlink(missing_ok=True)  # no mapping is on the device: it is a left-over
            with create(self.header) as file:
                file.truncate(HEADER_LENGTH)

        push_removal(self.header, undo)
        await run_blocking(make, f"making of {self.header}", deadline)

    async def _wipe(self, deadline: Deadline) -> None:
        await run_blocking(lambda: wipe(self.device), f"wiping of {self.device.path}", deadline)

    async def _open_copy(
        self, key: Secret, source: SourceType, undo: UndoStack, deadline: Deadline
    ) -> None:
        """Open with the header that was looked at, not with one that the host can still change."""
        copy = self.header.with_suffix(f".{secrets.token_hex(8)}")
        removal = push_removal(copy, undo)
        what = f"copying of the header of {self.device.path}"
        await run_blocking(lambda: copy_header(self.device, copy), what, deadline)
        await self._open(key, copy, detached=False, undo=undo, deadline=deadline, source=source)
        await removal(deadline)

    async def _open(
        self,
        key: Secret,
        header: Path,
        *,
        detached: bool,
        undo: UndoStack,
        deadline: Deadline,
        source: SourceType = SourceType.EMPTY,
    ) -> None:
        # A volume that was made just now has what was asked for; an old one may have more.
        exact = source is SourceType.EMPTY or self.options.integrity
        integrity = self.options.integrity if exact else None
        await run_blocking(
            lambda: verify_header(header, detached=detached, integrity=integrity),
            f"check of the header of {self.device.path}",
            deadline,
        )
        closing = undo.push(f"mapping {self.name}", self._close)
        done = await self.site.run(
            "cryptsetup", "luksOpen", "--header", str(header), "-d", "-", self.device.path,
            self.name, deadline=deadline, stdin=key,
        )  # fmt: skip
        if done.status > 0:
            undo.drop(closing)  # there may be a mapping of that name, and it is not ours
        done.verify_success()

    async def _close(self, deadline: Deadline) -> None:
        for name in (self.name, f"{self.name}_dif"):
            if await self._has_node(name, deadline):
                await self.site.check("cryptsetup", "close", name, deadline=deadline)

    async def _link(self, undo: UndoStack, deadline: Deadline) -> None:
        place, node = Path(self.mount_point), str(self.node)

        def unlink() -> None:
            if place.is_symlink() and os.readlink(place) == node:
                place.unlink()

        async def remove(deadline: Deadline) -> None:
            await run_blocking(unlink, f"removal of {place}", deadline)

        what = f"link {place}"
        linking = undo.push(what, remove)
        try:
            await run_blocking(lambda: place.symlink_to(node), what, deadline)
        except PlatformError:
            undo.drop(linking)
            raise


def verify_header(path: Path, *, detached: bool, integrity: bool | None) -> None:
    """Hold the header in a file to what this guest makes; see `verify_pinned`. Blocks a little.

    Raises:
        IntegrityError: it is no LUKS2 header, or of another kind.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(2 * COPY_LENGTHS[-1])
    try:
        header = Luks2Header.decode(data)
    except DecodeError as error:
        raise IntegrityError(str(error)) from error
    verify_pinned(header, detached=detached, integrity=integrity)


class Removal:
    """The removal of a file that is there for a while."""

    def __init__(self, path: Path, undo: UndoStack) -> None:
        self._path = path
        self._undo = undo
        self._entry = undo.push(f"file {path}", self._remove)

    async def _remove(self, deadline: Deadline) -> None:
        path = self._path
        await run_blocking(lambda: path.unlink(missing_ok=True), f"removal of {path}", deadline)

    async def __call__(self, deadline: Deadline) -> None:
        """Remove it now.

        Raises:
            PlatformError: it cannot be removed.
        """
        await self._remove(deadline)
        self._undo.drop(self._entry)


def push_removal(path: Path, undo: UndoStack) -> Removal:
    """Note that a file will be there; call the result to remove it before the roll-back."""
    return Removal(path, undo)


def random_name() -> str:
    """A name for a mapping that asked for none."""
    return str(uuid.uuid4())
