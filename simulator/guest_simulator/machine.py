"""A kernel whose devices are objects, with programmable faults: the double of `KernelCalls`.

What is no interface of a simulated device is a real file below the root. A device is given the
addresses that its caller wrote into the argument, and reads and writes there, as a driver does.

Source: docs/spec/attesters.md 4, 11 and 12.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from guest_simulator.tdx.guest import REPORTS, Fault, SeenCall, find_change, meet_faults
from guest_simulator.tdx.tsm import TsmReports, failure


def read_memory(address: int, length: int) -> bytes:
    """What the caller has at an address; EFAULT for none."""
    if not address:
        raise failure(errno.EFAULT)
    return ctypes.string_at(address, length)


def write_memory(address: int, data: bytes) -> None:
    """Put it there; EFAULT for no address."""
    if not address:
        raise failure(errno.EFAULT)
    ctypes.memmove(address, data, len(data))


class Device(Protocol):
    """What answers `ioctl`."""

    def control(self, code: int, argument: bytearray) -> None:
        """One call; fails with `OSError`."""
        ...


class PseudoFile(Protocol):
    """What answers `read` and `write`."""

    def read(self) -> bytes:
        """All of it."""
        ...

    def write(self, data: bytes) -> int:
        """One `write`; how many bytes were taken."""
        ...


@dataclass(kw_only=True)
class Machine:
    """A machine with simulated devices.

    Attributes:
        root: where the tree stands that the paths are in.
        reports: its configfs-tsm; None where it has none.
        devices: path to device.
        files: path to pseudo file.
        faults: see `Fault`.
        calls: all calls, for tests.
    """

    root: str
    reports: TsmReports | None = None
    devices: dict[str, Device] = field(default_factory=dict)
    files: dict[str, PseudoFile] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[SeenCall] = field(default_factory=list)

    def exists(self, path: str) -> bool:
        """See `KernelCalls`."""
        where = self._begin("exists", path)
        if where.startswith(REPORTS):
            return self.reports is not None
        return where in self.devices or where in self.files or os.path.exists(path)

    def list_names(self, path: str) -> Sequence[str]:
        """See `KernelCalls`."""
        where = self._begin("list", path)
        if where == REPORTS and self.reports is not None:
            return self.reports.names()
        return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        """See `KernelCalls`."""
        where = self._begin("mkdir", path)
        reports, name = self._instance(where)
        reports.make(name)

    def remove_directory(self, path: str) -> None:
        """See `KernelCalls`."""
        where = self._begin("rmdir", path)
        reports, name = self._instance(where)
        reports.remove(name)

    def read(self, path: str, limit: int) -> bytes:
        """See `KernelCalls`."""
        where = self._begin("read", path)
        fault = find_change(self.faults, where, "read")
        if fault is not None and fault.content is not None:
            return fault.content[:limit]
        content = self._content(where, path)
        if fault is not None and fault.change is not None:
            content = fault.change(content)
        return content[:limit]

    def write(self, path: str, data: bytes) -> int:
        """See `KernelCalls`."""
        where = self._begin("write", path, data)
        if where in self.files:
            return self.files[where].write(data)
        reports, rest = self._instance(where)
        name, _, attribute = rest.partition("/")
        return reports.write(name, attribute, data)

    def control(self, path: str, code: int, argument: bytearray) -> None:
        """See `KernelCalls`."""
        where = self._begin("ioctl", path)
        device = self.devices.get(where)
        if device is None:
            raise failure(errno.ENOENT)
        device.control(code, argument)

    def control_buffer(self, path: str, code: int, buffer: bytearray) -> None:
        """See `KernelCalls`; no device here has such a call."""
        self._begin("ioctl", path)
        raise failure(errno.ENOTTY)

    def _begin(self, call: str, path: str, data: bytes = b"") -> str:
        where = "/" + path.removeprefix(self.root.rstrip("/")).lstrip("/")
        self.calls.append(SeenCall(call, where, data))
        meet_faults(self.faults, where, call)
        return where

    def _content(self, where: str, path: str) -> bytes:
        if where in self.files:
            return self.files[where].read()
        if where.startswith(REPORTS + "/"):
            reports, rest = self._instance(where)
            name, _, attribute = rest.partition("/")
            return reports.read(name, attribute)
        with open(path, "rb") as file:
            return file.read()

    def _instance(self, where: str) -> tuple[TsmReports, str]:
        if self.reports is None or not where.startswith(REPORTS + "/"):
            raise failure(errno.ENOENT)
        return self.reports, where.removeprefix(REPORTS + "/")
