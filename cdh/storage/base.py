"""What a kind of volume can do, and what it is given to do it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from cdh.storage.kernel import KernelMounts
from cdh.storage.undo import UndoStack
from guest.deadline import Deadline
from guest.process import DEFAULT_PATH, Completed, run_program
from guest.secret import Secret

HEADERS: Final = "luks-headers"
"""Folder of the runtime directory for detached headers, and for copies that are looked at."""

SCRATCH: Final = "storage"
"""Folder of the runtime directory for what exists during one mount."""


class MountCalls(Protocol):
    """See `KernelMounts`."""

    def mount(self, node: str, target: bytes, kind: str) -> None:
        """Mount a device."""
        ...

    def unmount(self, target: bytes) -> None:
        """Unmount what was mounted there last."""
        ...

    def count(self, target: bytes) -> int:
        """How many mounts lie there."""
        ...


class StorageSite(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are on this machine.

    Attributes:
        runtime_dir: on tmpfs; headers and password files lie below it.
        path: where programs are looked for.
        sysfs: the kernel's description of devices.
        dev: device nodes.
        mapper: nodes of the device mapper.
        ossfs: the program that mounts a bucket, at its fixed place.
        gocryptfs: the program that mounts an encrypted directory, at its fixed place.
        accept_files: take a regular file for a block device.
        kernel: mounts and unmounts.
    """

    runtime_dir: Path
    path: str = DEFAULT_PATH
    sysfs: Path = Path("/sys")
    dev: Path = Path("/dev")
    mapper: Path = Path("/dev/mapper")
    ossfs: str = "/usr/local/bin/ossfs"
    gocryptfs: str = "/usr/local/bin/gocryptfs"
    accept_files: bool = False
    kernel: MountCalls = msgspec.field(default_factory=KernelMounts)

    async def run(
        self,
        *argv: str,
        deadline: Deadline,
        stdin: Secret | None = None,
        daemonizes: bool = False,
    ) -> Completed:
        """Run a program, whatever its status.

        Raises:
            GuestError: it is not installed, or did not end in time.
        """
        return await run_program(
            argv, deadline=deadline, stdin=stdin, path=self.path, daemonizes=daemonizes
        )

    async def check(
        self,
        *argv: str,
        deadline: Deadline,
        stdin: Secret | None = None,
        daemonizes: bool = False,
    ) -> bytes:
        """Run a program that must succeed; give its standard output.

        Raises:
            PlatformError: it is not installed, or failed; says the last line of its complaint.
            DeadlineError: it did not end in time.
        """
        done = await self.run(*argv, deadline=deadline, stdin=stdin, daemonizes=daemonizes)
        done.verify_success()
        return done.stdout


class KeySource(Protocol):
    """Where the keys of volumes come from."""

    async def fetch(self, name: str, deadline: Deadline) -> Secret:
        """The key that `sealed.`..., `kbs://`... or `file://`... leads to, for the caller to wipe.

        Raises:
            InvalidInputError: it has none of these forms.
            GuestError: the key is not to be had.
        """
        ...

    async def unseal(self, text: str, deadline: Deadline) -> Secret:
        """`text` itself, or what it leads to if it is a sealed secret; for the caller to wipe.

        Raises:
            GuestError: it cannot be unsealed.
        """
        ...


class Volume(Protocol):
    """One request, read and found good; nothing was done yet."""

    async def prepare(self, deadline: Deadline) -> tuple[str, ...]:
        """Find the device, fetch the keys; change nothing. Called once, before `mount`.

        Returns:
            Names of what nobody else may work on while this volume is being mounted.

        Raises:
            GuestError: there is no such device, or a key is not to be had.
        """
        ...

    async def mount(self, undo: UndoStack, deadline: Deadline) -> None:
        """Do it.

        Args:
            undo: gets the step that takes back each step, before that step is begun. The steps
                stay valid while the volume is mounted: they also unmount it.
            deadline: when it must be done.

        Raises:
            GuestError: it cannot be done; whoever gave `undo` takes back what was begun.
        """
        ...

    def wipe(self) -> None:
        """Forget the keys; may be called at any time, and again."""
        ...


class VolumeParser(Protocol):
    """Makes a volume of a request's options."""

    def __call__(self, options: Mapping[str, str], mount_point: str) -> Volume:
        """Read the options.

        Raises:
            InvalidInputError: one is missing or wrong.
        """
        ...
