"""Buckets of Alibaba Cloud OSS, and encrypted directories in them.

Source: docs/spec/confidential-data-hub.md 10.5.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cdh.storage.base import SCRATCH, KeySource, StorageSite
from cdh.storage.blocking import run_blocking
from cdh.storage.device import create
from cdh.storage.filesystem import push_unmount
from cdh.storage.oss_options import OssOptions, encode_password_file, parse_oss
from cdh.storage.undo import Undo, UndoStack
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError
from guest.secret import Secret

OSSFS_PASSWORD: Final = "ossfs_passwd"
GOCRYPTFS_PASSWORD: Final = "gocryptfs_passwd"


class OssDriver:
    """Makes volumes of requests.

    Args:
        site: this machine.
        keys: unseals what is sealed.
    """

    def __init__(self, site: StorageSite, keys: KeySource) -> None:
        self._site = site
        self._keys = keys

    def __call__(self, options: Mapping[str, str], mount_point: str) -> "OssVolume":
        """See `VolumeParser`."""
        try:
            parsed = parse_oss(options)
        except DecodeError as error:
            raise InvalidInputError(str(error)) from error
        return OssVolume(self._site, self._keys, parsed, mount_point)


class OssVolume:
    """One bucket that is about to be mounted."""

    def __init__(
        self, site: StorageSite, keys: KeySource, options: OssOptions, mount_point: str
    ) -> None:
        self._site = site
        self._keys = keys
        self._options = options
        self._mount_point = mount_point
        self._line: Secret | None = None
        self._password: Secret | None = None

    async def prepare(self, deadline: Deadline) -> tuple[str, ...]:
        """See `Volume.prepare`."""
        options, keys = self._options, self._keys
        with (
            await keys.unseal(options.access_key_id, deadline) as key_id,
            await keys.unseal(options.access_key_secret, deadline) as key_secret,
        ):
            try:
                self._line = Secret(
                    encode_password_file(options.bucket, key_id.reveal(), key_secret.reveal())
                )
            except DecodeError as error:
                raise InvalidInputError(str(error)) from error
        if options.gocryptfs:
            self._password = await keys.unseal(options.password, deadline)
            if not is_text(self._password):
                raise InvalidInputError("option encPasswd is not UTF-8")
        return ()

    async def mount(self, undo: UndoStack, deadline: Deadline) -> None:
        """See `Volume.mount`; the mount point must be there."""
        place = Path(self._mount_point)
        assert self._line is not None, "not prepared"
        if not await run_blocking(place.is_dir, f"look at {place}", deadline):
            raise InvalidInputError(f"mount point {place} is no directory")
        folder = self._site.runtime_dir / SCRATCH / secrets.token_hex(8)
        if self._password is None:
            await self._mount_bucket(self._mount_point, folder, self._line, undo, deadline)
            return
        bucket = folder.with_name(f"{folder.name}-bucket")
        await self._make_folder(bucket, undo, deadline)
        await self._mount_bucket(str(bucket), folder, self._line, undo, deadline)
        await self._mount_decrypted(bucket, folder, self._password, undo, deadline)

    def wipe(self) -> None:
        """See `Volume.wipe`."""
        for secret in (self._line, self._password):
            if secret is not None:
                secret.wipe()

    async def _mount_bucket(
        self, target: str, folder: Path, line: Secret, undo: UndoStack, deadline: Deadline
    ) -> None:
        options = self._options
        await push_unmount(self._site, target, undo, deadline)
        await self._with_file(
            folder / OSSFS_PASSWORD,
            line,
            lambda file: (
                self._site.ossfs,
                f"{options.bucket}:{options.path}",
                target,
                f"-ourl={options.url}",
                f"-opasswd_file={file}",
                *options.other,
            ),
            undo,
            deadline,
        )

    async def _mount_decrypted(
        self, bucket: Path, folder: Path, password: Secret, undo: UndoStack, deadline: Deadline
    ) -> None:
        await push_unmount(self._site, self._mount_point, undo, deadline)
        await self._with_file(
            folder / GOCRYPTFS_PASSWORD,
            password,
            lambda file: (
                self._site.gocryptfs,
                str(bucket),
                self._mount_point,
                "-passfile",
                str(file),
                "-nosyslog",
            ),
            undo,
            deadline,
        )

    async def _with_file(
        self,
        file: Path,
        content: Secret,
        argv: Callable[[Path], tuple[str, ...]],
        undo: UndoStack,
        deadline: Deadline,
    ) -> None:
        """Run a program that reads a secret from a file, which is there only while it runs."""

        def write() -> None:
            with create(file) as opened:
                opened.write(content.reveal())

        def remove() -> None:
            file.unlink(missing_ok=True)

        async def take_back(deadline: Deadline) -> None:
            await run_blocking(remove, f"removal of {file}", deadline)

        making = await self._make_folder(file.parent, undo, deadline)
        entry = undo.push(f"file {file}", take_back)
        await run_blocking(write, f"writing of {file}", deadline)
        await self._site.check(*argv(file), deadline=deadline, daemonizes=True)
        await take_back(deadline)
        undo.drop(entry)
        await making.step(deadline)
        undo.drop(making)

    async def _make_folder(self, folder: Path, undo: UndoStack, deadline: Deadline) -> Undo:
        """A private directory that goes with the roll-back."""

        def remove() -> None:
            if os.path.lexists(folder):
                folder.rmdir()

        async def take_back(deadline: Deadline) -> None:
            await run_blocking(remove, f"removal of {folder}", deadline)

        entry = undo.push(f"directory {folder}", take_back)
        await run_blocking(lambda: _make_private(folder), f"making of {folder}", deadline)
        return entry


def is_text(secret: Secret) -> bool:
    """Whether a secret is UTF-8."""
    try:
        secret.reveal().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _make_private(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
