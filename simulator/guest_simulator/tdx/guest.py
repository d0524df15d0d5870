"""The kernel of a TDX guest, as far as an attester calls it, with programmable faults.

What is not an interface of TDX is a real file, so that a test may put more beside it.

Source: docs/spec/attesters.md 1.3, 1.5 and 3.
"""

import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from guest_simulator.tdx import qgs
from guest_simulator.tdx.domain import REGISTER_BYTES, Domain
from guest_simulator.tdx.quote import Platform
from guest_simulator.tdx.tsm import COUNTER_BITS, TsmReports, failure

REPORTS: Final = "/sys/kernel/config/tsm/report"
MEASUREMENTS: Final = "/sys/devices/virtual/misc/tdx_guest/measurements"
DEVICE: Final = "/dev/tdx_guest"
CCEL: Final = "/sys/firmware/acpi/tables/data/CCEL"

GET_REPORT: Final = 0xC4405401
GET_QUOTE: Final = 0x80105404
EXTEND: Final = 0x80315403


@dataclass(kw_only=True)
class Fault:
    """What happens to calls instead of what should.

    Attributes:
        path: how the path ends.
        call: `exists`, `list`, `mkdir`, `rmdir`, `read`, `write` or `ioctl`.
        error: errno that the call fails with.
        content: what a read gives instead.
        change: what becomes of what a read gives.
        block: the call waits for this first.
        times: how often; negative is always.
    """

    path: str
    call: str
    error: int | None = None
    content: bytes | None = None
    change: Callable[[bytes], bytes] | None = None
    block: threading.Event | None = None
    times: int = -1

    def fits(self, path: str, call: str) -> bool:
        """Whether it is this call's turn."""
        return self.times != 0 and call == self.call and path.endswith(self.path)


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A call that was made.

    Attributes:
        call: as in `Fault`.
        path: below the root.
        data: what a write wrote.
    """

    call: str
    path: str
    data: bytes = b""


def meet_faults(faults: list[Fault], where: str, call: str) -> None:
    """Wait and fail as the faults say of a call that begins.

    Raises:
        OSError: one says so.
    """
    for fault in faults:
        if not fault.fits(where, call) or (fault.error is None and fault.block is None):
            continue
        fault.times -= 1
        if fault.block is not None:
            fault.block.wait()
        if fault.error is not None:
            raise failure(fault.error)


def find_change(faults: list[Fault], where: str, call: str) -> Fault | None:
    """What changes what a call gives; counted."""
    for fault in faults:
        if fault.fits(where, call) and (fault.content is not None or fault.change is not None):
            fault.times -= 1
            return fault
    return None


@dataclass(kw_only=True)
class TdxGuest:
    """The double of `KernelCalls`.

    Attributes:
        root: where the tree stands that the paths are in.
        domain: what is attested.
        platform: signs the quotes.
        has_configfs: the report tree is there.
        has_registers: tsm-mr is there.
        device: path of the guest device; None where there is none.
        is_vendor_kernel: it has `GET_QUOTE` and the extension of registers.
        ccel: the area of the firmware's log; None where ACPI has none.
        quote_seconds: what a quote takes.
        transform: what becomes of a quote on its way.
        counter_bits: width of the generation counter.
        faults: see `Fault`.
        calls: all calls, for tests.
    """

    root: str
    domain: Domain = field(default_factory=Domain)
    platform: Platform = field(default_factory=Platform.generate)
    has_configfs: bool = True
    has_registers: bool = True
    device: str | None = DEVICE
    is_vendor_kernel: bool = False
    ccel: bytes | None = None
    quote_seconds: float = 0.0
    transform: Callable[[bytes], bytes] | None = None
    counter_bits: int = COUNTER_BITS
    faults: list[Fault] = field(default_factory=list)
    calls: list[SeenCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reports = TsmReports(self.quote, counter_bits=self.counter_bits)

    def quote(self, report_data: bytes) -> bytes:
        """What the quoting service and the module make of 64 bytes."""
        report = self.domain.report(report_data)
        time.sleep(self.quote_seconds)
        quote = self.platform.quote(report)
        return quote if self.transform is None else self.transform(quote)

    def exists(self, path: str) -> bool:
        """See `KernelCalls`."""
        where = self._begin("exists", path)
        if where == REPORTS:
            return self.has_configfs
        if where.startswith(REPORTS + "/"):
            return self.has_configfs and self._instance(where) in self.reports.names()
        if where.startswith(MEASUREMENTS):
            return self.has_registers
        if where == self.device:
            return True
        return os.path.exists(path)

    def list_names(self, path: str) -> Sequence[str]:
        """See `KernelCalls`."""
        where = self._begin("list", path)
        return self.reports.names() if where == REPORTS else sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        """See `KernelCalls`."""
        self.reports.make(self._instance(self._begin("mkdir", path)))

    def remove_directory(self, path: str) -> None:
        """See `KernelCalls`."""
        self.reports.remove(self._instance(self._begin("rmdir", path)))

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
        if where.startswith(REPORTS + "/"):
            name, _, attribute = self._instance(where).partition("/")
            return self.reports.write(name, attribute, data)
        if where.startswith(MEASUREMENTS + "/") and self.has_registers:
            number = _register_of(where.removeprefix(MEASUREMENTS + "/"))
            if number is None:
                raise failure(errno.EACCES)
            if len(data) != REGISTER_BYTES:
                raise failure(errno.EINVAL)
            self.domain.registers.extend(number, data)
            return len(data)
        raise failure(errno.ENOENT)

    def control(self, path: str, code: int, argument: bytearray) -> None:
        """See `KernelCalls`."""
        where = self._begin("ioctl", path)
        self._verify_device(where)
        if code == GET_REPORT and len(argument) == 1088:
            report = self.domain.report(bytes(argument[:64]))
            fault = find_change(self.faults, where, "ioctl")
            if fault is not None and fault.change is not None:
                report = fault.change(report)
            argument[64:] = report
        elif code == EXTEND and self.is_vendor_kernel and len(argument) == 49:
            if argument[48] < 2:
                raise failure(errno.EPERM)
            self.domain.registers.extend(argument[48], bytes(argument[:48]))
        else:
            raise failure(errno.ENOTTY)

    def control_buffer(self, path: str, code: int, buffer: bytearray) -> None:
        """See `KernelCalls`."""
        where = self._begin("ioctl", path)
        self._verify_device(where)
        if code != GET_QUOTE or not self.is_vendor_kernel:
            raise failure(errno.ENOTTY)
        length = struct.unpack_from("<I", buffer, 16)[0]
        report = qgs.report_of(bytes(buffer[24 + 4 : 24 + length]))
        time.sleep(self.quote_seconds)
        answer = qgs.frame(qgs.response(self.platform.quote(report)))
        struct.pack_into("<QQII", buffer, 0, 1, 0, length, len(answer))
        buffer[24 : 24 + len(answer)] = answer

    def _begin(self, call: str, path: str, data: bytes = b"") -> str:
        where = "/" + path.removeprefix(self.root.rstrip("/")).lstrip("/")
        self.calls.append(SeenCall(call, where, data))
        meet_faults(self.faults, where, call)
        return where

    def _content(self, where: str, path: str) -> bytes:
        if where.startswith(REPORTS + "/"):
            name, _, attribute = self._instance(where).partition("/")
            return self.reports.read(name, attribute)
        if where.startswith(MEASUREMENTS + "/") and self.has_registers:
            return self._register(where.removeprefix(MEASUREMENTS + "/"))
        if where == CCEL:
            if self.ccel is None:
                raise failure(errno.ENOENT)
            return self.ccel
        with open(path, "rb") as file:
            return file.read()

    def _register(self, name: str) -> bytes:
        static = {
            "mrconfigid": self.domain.config_id,
            "mrowner": self.domain.owner,
            "mrownerconfig": self.domain.owner_config,
            "mrtd:sha384": self.domain.mrtd,
        }
        number = _register_of(name)
        if number is not None:
            return self.domain.registers.read(number)
        if name not in static:
            raise failure(errno.ENOENT)
        return static[name]

    def _verify_device(self, where: str) -> None:
        if where != self.device:
            raise failure(errno.ENOENT)

    def _instance(self, where: str) -> str:
        if not self.has_configfs or not where.startswith(REPORTS + "/"):
            raise failure(errno.ENOENT)
        return where.removeprefix(REPORTS + "/")


def _register_of(name: str) -> int | None:
    names = {f"rtmr{number}:sha384": number for number in range(4)}
    return names.get(name)
