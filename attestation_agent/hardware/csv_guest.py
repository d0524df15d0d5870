"""The CSV guest device: attestation reports, and the runtime measurement registers.

Source: docs/spec/attesters.md 12.1 and 12.2 (Hygon, driver `csv-guest`).
"""

import errno
import logging
import struct
from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.memory import Pages
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.csv import PAGE_BYTES, REGISTER_BYTES, REGISTERS
from guest.errors import PlatformError, UnsupportedError

log = logging.getLogger(__name__)

NODE: Final = "/dev/csv-guest"

GET_REPORT: Final = 0xC0104401
"""`_IOWR('D', 1, 16)`."""

RTMR: Final = 0xC0184402
"""`_IOWR('D', 2, 24)`."""

REPORT_ARGUMENT: Final = struct.Struct("<QI4x")
"""Address and length of the page."""

RTMR_ARGUMENT: Final = struct.Struct("<QQHHI")
"""Address and length of a buffer, subcommand, reserved, the firmware's error."""

STATUS: Final = 1
START: Final = 2
READ: Final = 3
EXTEND: Final = 4

NOT_STARTED: Final = 0
"""State of the registers before somebody starts them."""

VERSION: Final = 1
NO_SUCH_COMMAND: Final = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a driver or firmware without registers says."""

TRY_LATER: Final = (errno.EBUSY, errno.EINTR, errno.EAGAIN)
"""What does not say whether there are registers."""


class CsvGuestDevice:
    """One device node; it is opened for each call and never kept."""

    def __init__(self, path: str, kernel: KernelCalls) -> None:
        """Open nothing."""
        self.path: Final = path
        self._kernel = kernel

    def report(self, request: bytes, steps: Steps) -> bytes:
        """The firmware's answer to a request, both 4096 bytes.

        Raises:
            PlatformError: the device fails or is absent.
        """
        assert len(request) == PAGE_BYTES
        page = Pages(PAGE_BYTES)
        page.write(request)
        argument = bytearray(REPORT_ARGUMENT.pack(page.address, PAGE_BYTES))
        with steps.at(self.path, "GET_REPORT"):
            self._kernel.control(self.path, GET_REPORT, argument)
        return page.read(PAGE_BYTES)

    def has_registers(self, steps: Steps) -> bool:
        """Whether this guest has measurement registers: whether they tell their status.

        Raises:
            PlatformError: the device is busy.
        """
        try:
            self._status(steps)
        except PlatformError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in TRY_LATER:
                raise
            log.debug("no measurement registers", extra={"error": str(error)})
            return False
        return True

    def read_register(self, number: int, steps: Steps) -> bytes:
        """The 32 bytes of rtmr `number`.

        Raises:
            UnsupportedError: there are no registers.
            PlatformError: it cannot be read.
        """
        self._start(steps)
        # Answers are packed in the order of the bits: the only one that is asked for comes first.
        request = struct.pack("<I", 1 << _checked(number)) + bytes(REGISTER_BYTES)
        step = f"RTMR_READ{number}"
        answer = self._request(step, READ, request, steps)
        if answer[:4] != request[:4]:
            raise PlatformError(f"{self.path}: {step}: EBADMSG (the answer has other registers)")
        return answer[4:]

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        """Extend rtmr `number` with 32 bytes.

        Raises:
            UnsupportedError: there are no registers.
            PlatformError: it fails.
        """
        assert len(digest) == REGISTER_BYTES
        self._start(steps)
        request = struct.pack("<BBH", _checked(number), 0, REGISTER_BYTES) + digest
        self._request(f"RTMR_EXTEND{number}", EXTEND, request, steps)

    def _start(self, steps: Steps) -> None:
        try:
            state = self._status(steps)
        except PlatformError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_SUCH_COMMAND:
                raise UnsupportedError(f"this guest has no registers: {error}") from error
            raise
        if state == NOT_STARTED:
            self._request("RTMR_START", START, struct.pack("<H", VERSION), steps)

    def _status(self, steps: Steps) -> int:
        answer = self._request("RTMR_STATUS", STATUS, bytes(3), steps)
        _version, state = struct.unpack("<HB", answer)
        return int(state)

    def _request(self, step: str, command: int, request: bytes, steps: Steps) -> bytes:
        """The buffer after the call."""
        page = Pages(len(request))
        page.write(request)
        argument = bytearray(RTMR_ARGUMENT.pack(page.address, len(request), command, 0, 0))
        with steps.at(self.path, step):
            self._kernel.control(self.path, RTMR, argument)
        fault = RTMR_ARGUMENT.unpack(argument)[4]
        if fault:
            raise PlatformError(f"{self.path}: {step}: EIO (firmware error {fault:#x})")
        return page.read(len(request))


def _checked(number: int) -> int:
    assert 0 <= number < REGISTERS
    return number
