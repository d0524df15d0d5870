"""The configfs-tsm report interface.

One report is one instance: a directory that is made, written once, read, and removed again,
whatever happens. The kernel generates for whatever was written last, so the generation counter is
compared with the number of our writes. Everything blocks; `hardware.device_thread` waits for it.

Source: docs/spec/attesters.md 1.3.
"""

import errno
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps, platform_error
from guest.deadline import Deadline
from guest.errors import PlatformError, UnsupportedError

log = logging.getLogger(__name__)

REPORTS: Final = "/sys/kernel/config/tsm/report"

NO_PROVIDER: Final = errno.ENXIO
"""What `mkdir` says where no provider module is loaded."""

NAME_TAKEN: Final = (errno.EEXIST, errno.EBUSY)
"""What `mkdir` says of a name that another process uses."""

TRY_AGAIN: Final = (errno.EBUSY, errno.EINTR)
"""What reading a report says when it may be asked for again; a timeout is not among it."""

MAX_NAMES: Final = 100
MAX_RETRIES: Final = 3
RETRY_PAUSE: Final = 1.0
"""Seconds between two attempts: the kernel looks at its shared buffer as often."""

MAX_REPORT_BYTES: Final = 1024 * 1024
"""Longest report that is taken, in bytes; the kernel has 32 KiB or 16 MiB."""

MAX_TEXT_BYTES: Final = 256

_INSTANCE: Final = re.compile(r"aa-([0-9]{1,10})-[0-9]+", re.ASCII)


class GenerationError(PlatformError):
    """Somebody else wrote to our instance, or our write was lost; worth another instance."""


def find_provider(root: str, kernel: KernelCalls = KERNEL) -> str | None:
    """The name of the kernel's report provider; None without the interface or a provider.

    Makes one report instance and removes it again.

    Args:
        root: `REPORTS`, or the same in another tree.
        kernel: whose interface it is.

    Raises:
        PlatformError: the interface is there and does not answer.
    """
    try:
        with _instance(root, kernel, Steps(), itertools.count()) as path:
            return _read_provider(path, kernel, Steps())
    except UnsupportedError:
        return None


def remove_leftovers(
    root: str, kernel: KernelCalls = KERNEL, is_alive: Callable[[int], bool] | None = None
) -> int:
    """Remove instances of agents that are no more; they would pin the provider's module.

    Args:
        root: `REPORTS`, or the same in another tree.
        kernel: whose interface it is.
        is_alive: whether a process exists; None asks the kernel of this machine.

    Returns:
        How many were removed; what cannot be removed is left with a warning.
    """
    removed = 0
    try:
        names = kernel.list_names(root) if kernel.exists(root) else ()
        for name in names:
            match = _INSTANCE.fullmatch(name)
            if match is None or (is_alive or _is_alive)(int(match[1])):
                continue
            kernel.remove_directory(os.path.join(root, name))
            removed += 1
    except OSError as error:
        log.warning("left-over reports stay", extra={"path": root, "error": str(error)})
    return removed


def _is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


class TsmReports:
    """Reports of one provider."""

    def __init__(self, root: str, provider: str, kernel: KernelCalls = KERNEL) -> None:
        """Touch nothing yet.

        Args:
            root: `REPORTS`, or the same in another tree.
            provider: `tdx_guest`, `sev_guest` or `arm_cca_guest`; another one is an error.
            kernel: whose interface it is.
        """
        self._root = root
        self._provider = provider
        self._kernel = kernel
        self._numbers = itertools.count()

    def report(self, inblob: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """A report that binds `inblob`, written as it is.

        Raises:
            UnsupportedError: there is no such interface, or no provider.
            PlatformError: it is there and fails; names path, step and errno.
            DeadlineError: it is busy for longer than there is time.
        """
        return self._repeat(inblob, steps, deadline, is_auxiliary_read=False)[0]

    def report_with_auxiliary(
        self, inblob: bytes, steps: Steps, deadline: Deadline
    ) -> tuple[bytes, bytes]:
        """A report, and what the provider gives beside it in `auxblob`, which may be nothing.

        Raises:
            UnsupportedError: as `report`.
            PlatformError: as `report`.
            DeadlineError: as `report`.
        """
        return self._repeat(inblob, steps, deadline, is_auxiliary_read=True)

    def _repeat(
        self, inblob: bytes, steps: Steps, deadline: Deadline, *, is_auxiliary_read: bool
    ) -> tuple[bytes, bytes]:
        for attempt in itertools.count(1):
            try:
                return self._attempt(inblob, steps, deadline, is_auxiliary_read)
            except GenerationError as error:
                if attempt >= MAX_RETRIES or deadline.is_over():
                    raise
                log.warning("report instance disturbed", extra={"error": str(error)})
        raise AssertionError("unreachable")

    def _attempt(
        self, inblob: bytes, steps: Steps, deadline: Deadline, is_auxiliary_read: bool
    ) -> tuple[bytes, bytes]:
        with _instance(self._root, self._kernel, steps, self._numbers) as path:
            found = _read_provider(path, self._kernel, steps)
            if found != self._provider:
                raise PlatformError(
                    f"{path}/provider: missing provider {self._provider}, found {found}"
                )
            self._write(f"{path}/inblob", inblob, steps)
            report = self._read_report(f"{path}/outblob", steps, deadline)
            auxiliary = b""
            if is_auxiliary_read:
                auxiliary = self._read_report(f"{path}/auxblob", steps, deadline, least=0)
            self._verify_generation(f"{path}/generation", 1, steps)
            return report, auxiliary

    def _write(self, path: str, content: bytes, steps: Steps) -> None:
        with steps.at(path, "write"):
            taken = self._kernel.write(path, content)
        if taken != len(content):
            raise PlatformError(f"{path}: write: took {taken} bytes, expected {len(content)}")

    def _read_report(self, path: str, steps: Steps, deadline: Deadline, *, least: int = 1) -> bytes:
        for attempt in itertools.count(1):
            try:
                with steps.at(path, "read"):
                    report = self._kernel.read(path, MAX_REPORT_BYTES + 1)
            except PlatformError as error:
                cause = error.__cause__
                number = cause.errno if isinstance(cause, OSError) else None
                if number not in TRY_AGAIN or attempt > MAX_RETRIES:
                    raise
                log.debug("report is not ready", extra={"error": str(error)})
                if deadline.remaining() <= RETRY_PAUSE:
                    raise
                steps.pause(RETRY_PAUSE, deadline)
                continue
            if not least <= len(report) <= MAX_REPORT_BYTES:
                raise PlatformError(
                    f"{path}: read: {len(report)} bytes, expected {least} to {MAX_REPORT_BYTES}"
                )
            return report
        raise AssertionError("unreachable")

    def _verify_generation(self, path: str, writes: int, steps: Steps) -> None:
        with steps.at(path, "read"):
            text = self._kernel.read(path, MAX_TEXT_BYTES).decode("ascii", "replace").strip()
        if not text.isascii() or not text.isdecimal() or int(text) != writes:
            raise GenerationError(
                "Failed to generate TSM Report: inblob write conflict "
                f"(generation={text[:20]}, expected {writes}) at {path}"
            )


@contextmanager
def _instance(
    root: str, kernel: KernelCalls, steps: Steps, numbers: Iterator[int]
) -> Iterator[str]:
    """A new instance, removed at the end of the block."""
    with steps.at(root, "stat"):
        is_there = kernel.exists(root)
    if not is_there:
        raise UnsupportedError(f"Failed to access TSM Report path: {root} does not exist")
    path = _make_instance(root, kernel, steps, numbers)
    try:
        yield path
    finally:
        try:
            kernel.remove_directory(path)
        except OSError as error:
            text = str(platform_error(path, "rmdir", error))
            log.warning("report instance stays", extra={"error": text})


def _make_instance(root: str, kernel: KernelCalls, steps: Steps, numbers: Iterator[int]) -> str:
    for _ in range(MAX_NAMES):
        path = os.path.join(root, f"aa-{os.getpid()}-{next(numbers)}")
        steps.current = f"{path}: mkdir"
        try:
            kernel.make_directory(path)
        except OSError as error:
            if error.errno == NO_PROVIDER:
                raise UnsupportedError(f"{root}: mkdir: ENXIO (no provider is loaded)") from error
            if error.errno in NAME_TAKEN:
                continue
            raise platform_error(path, "mkdir", error) from error
        return path
    raise PlatformError(f"{root}: mkdir: EEXIST ({MAX_NAMES} names are taken)")


def _read_provider(path: str, kernel: KernelCalls, steps: Steps) -> str:
    with steps.at(f"{path}/provider", "read"):
        text = kernel.read(f"{path}/provider", MAX_TEXT_BYTES)
    name = text.decode("ascii", "replace").strip()
    if not name:
        raise PlatformError(f"{path}/provider: read: names no provider")
    return name
