"""The TDX guest device: TDREPORT on every kernel, quotes and register extension on vendor kernels.

Source: docs/spec/attesters.md 3.2 and 3.6.
"""

import errno
import itertools
import struct
from collections.abc import Callable
from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports import qgs
from attestation_agent.reports.tdx import (
    REGISTER_BYTES,
    REPORT_DATA_BYTES,
    TD_REPORT_BYTES,
    TdReport,
)
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError, UnsupportedError

ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)
NO_SUCH_COMMAND: Final = errno.ENOTTY
"""What an `ioctl` says that the kernel does not have."""

GET_REPORT: Final = 0xC4405401
"""`_IOWR('T', 1, 1088)`."""

GET_QUOTE: Final = (0x80105404, 0xC0105404, 0x40105404)
"""`_IOR`, `_IOWR`, `_IOW` of `('T', 4, 16)`; kernels differ."""

EXTEND: Final = (0x80315403, 0x40315403)
"""`_IOR`, `_IOW` of `('T', 3, 49)`."""

QUOTE_BUFFER_BYTES: Final = 16384
QUOTE_HEADER: Final = struct.Struct("<QQII")
SUCCESS: Final = 0
IN_FLIGHT: Final = 0xFFFF_FFFF_FFFF_FFFF
STATUS_NAMES: Final = {
    IN_FLIGHT: "EBUSY (in flight)",
    0x8000_0000_0000_0000: "EIO (error)",
    0x8000_0000_0000_0001: "EIO (service unavailable)",
}

MAX_RETRIES: Final = 3
RETRY_PAUSE: Final = 1.0


class TdxDevice:
    """One device node; it is opened for each call and never kept."""

    def __init__(self, path: str, kernel: KernelCalls = KERNEL) -> None:
        """Open nothing."""
        self.path: Final = path
        self._kernel = kernel

    def report(self, report_data: bytes, steps: Steps) -> TdReport:
        """A TDREPORT over 64 bytes, decoded.

        Raises:
            PlatformError: the device fails, is absent, or gives something else.
        """
        data = self.raw_report(report_data, steps)
        return self._decode(data, report_data)

    def raw_report(self, report_data: bytes, steps: Steps) -> bytes:
        """A TDREPORT over 64 bytes, as it is.

        Raises:
            PlatformError: as `report`.
        """
        assert len(report_data) == REPORT_DATA_BYTES
        argument = bytearray(report_data) + bytes(TD_REPORT_BYTES)
        with steps.at(self.path, "GET_REPORT"):
            self._kernel.control(self.path, GET_REPORT, argument)
        data = bytes(argument[REPORT_DATA_BYTES:])
        self._decode(data, report_data)
        return data

    def _decode(self, data: bytes, report_data: bytes) -> TdReport:
        try:
            report = TdReport.decode(data)
        except DecodeError as error:
            raise PlatformError(f"{self.path}: GET_REPORT: EBADMSG ({error})") from error
        if not report.hashes_match or report.report_data != report_data:
            raise PlatformError(f"{self.path}: GET_REPORT: EBADMSG (not the report asked for)")
        return report

    def quote(self, report_data: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """A quote through the kernel's own call of the quoting service.

        Raises:
            UnsupportedError: the kernel has no such call, or there is no device.
            PlatformError: it fails.
            DeadlineError: it is busy for longer than there is time.
        """
        if not self.is_there(steps):
            raise UnsupportedError(f"{self.path} does not exist")
        request = qgs.encode_request(self.raw_report(report_data, steps))
        for attempt in itertools.count(1):
            answer = self._exchange(request, steps)
            _version, status, _, length = QUOTE_HEADER.unpack_from(answer)
            if status == IN_FLIGHT and attempt <= MAX_RETRIES:
                steps.pause(RETRY_PAUSE, deadline)
                continue
            return self._quote_of(answer, status, length)
        raise AssertionError("unreachable")

    def _exchange(self, request: bytes, steps: Steps) -> bytes:
        buffer = bytearray(QUOTE_BUFFER_BYTES)
        QUOTE_HEADER.pack_into(buffer, 0, 1, 0, len(request), 0)
        buffer[QUOTE_HEADER.size : QUOTE_HEADER.size + len(request)] = request

        def call(code: int) -> None:
            self._kernel.control_buffer(self.path, code, buffer)

        self._try_codes("GET_QUOTE", GET_QUOTE, steps, call)
        return bytes(buffer)

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        """Extend RTMR `number` with 48 bytes.

        Raises:
            UnsupportedError: the kernel has no such call.
            PlatformError: it fails.
        """
        assert len(digest) == REGISTER_BYTES
        argument = digest + bytes((number,))
        self._try_codes(
            f"EXTEND_RTMR{number}", EXTEND, steps,
            lambda code: self._kernel.control(self.path, code, bytearray(argument)),
        )  # fmt: skip

    def is_there(self, steps: Steps) -> bool:
        """Whether there is such a node; opens nothing.

        Raises:
            PlatformError: that cannot be told.
        """
        with steps.at(self.path, "stat"):
            return self._kernel.exists(self.path)

    def _try_codes(
        self, step: str, codes: tuple[int, ...], steps: Steps, call: Callable[[int], None]
    ) -> None:
        for code in codes:
            try:
                with steps.at(self.path, step):
                    call(code)
            except PlatformError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno == NO_SUCH_COMMAND:
                    continue
                raise
            return
        raise UnsupportedError(f"{self.path}: {step}: ENOTTY (the kernel has no such call)")

    def _quote_of(self, buffer: bytes, status: int, length: int) -> bytes:
        if status != SUCCESS:
            name = STATUS_NAMES.get(status, f"EIO (status {status:#x})")
            raise PlatformError(f"{self.path}: GET_QUOTE: {name}")
        start = QUOTE_HEADER.size
        if not 0 < length <= len(buffer) - start:
            raise PlatformError(f"{self.path}: GET_QUOTE: EBADMSG ({length} bytes of output)")
        try:
            return qgs.decode_framed_response(buffer[start : start + length])
        except DecodeError as error:
            raise PlatformError(f"{self.path}: GET_QUOTE: EBADMSG ({error})") from error


def find_node(nodes: tuple[str, ...], kernel: KernelCalls, steps: Steps) -> str | None:
    """The first device node that exists; opens nothing.

    Raises:
        PlatformError: whether one exists cannot be told.
    """
    for path in nodes:
        with steps.at(path, "stat"):
            if kernel.exists(path):
                return path
    return None
