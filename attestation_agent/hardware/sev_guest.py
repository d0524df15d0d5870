"""The SEV guest device: attestation reports, with the host's certificate table.

A request that fails may cost the guest its key to the security processor for good. So nothing but
a busy host is asked twice.

Source: docs/spec/attesters.md 4.2 (Linux, Documentation/virt/coco/sev-guest.rst).
"""

import errno
import itertools
import struct
from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.memory import Pages
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.snp import REPORT_BYTES, REPORT_DATA_BYTES
from guest.deadline import Deadline
from guest.errors import PlatformError, UnsupportedError

NODE: Final = "/dev/sev-guest"

GET_REPORT: Final = 0xC0205300
"""`_IOWR('S', 0, 32)`."""

GET_EXT_REPORT: Final = 0xC0205302
"""`_IOWR('S', 2, 32)`."""

ARGUMENT: Final = struct.Struct("<B7xQQQ")
"""Message version, address of the request, of the response, result."""

MESSAGE_VERSION: Final = 1
REQUEST_BYTES: Final = 112
"""User data 64, VMPL at 64; extended: address of the table at 96, its length at 104."""

TABLE_ADDRESS_AT: Final = 96
TABLE_LENGTH_AT: Final = 104
MAX_TABLE_BYTES: Final = 16 * 1024
"""Longest table that the kernel fetches."""

RESPONSE_BYTES: Final = 4000
RESPONSE_HEAD: Final = struct.Struct("<II24x")

VMM_INVALID_LENGTH: Final = 1
"""The host's word that the table needs another length, which it then names."""

VMM_BUSY: Final = 2
MAX_BUSY: Final = 8
BUSY_PAUSE: Final = 0.25
"""Seconds before the second attempt at a busy host; each pause is twice the one before."""

MAX_LENGTHS: Final = 3
"""How often a host may change its mind about the length of the table."""

STATUS_NAMES: Final = {0x16: "EINVAL (invalid parameters)", 0x27: "EKEYREJECTED (invalid key)"}


class _OtherLengthError(Exception):
    """The host wants another length for the table."""


class SevGuestDevice:
    """One device node; it is opened for each call and never kept."""

    def __init__(self, path: str, kernel: KernelCalls) -> None:
        """Open nothing."""
        self.path: Final = path
        self._kernel = kernel

    def is_there(self, steps: Steps) -> bool:
        """Whether there is such a node; opens nothing.

        Raises:
            PlatformError: that cannot be told.
        """
        with steps.at(self.path, "stat"):
            return self._kernel.exists(self.path)

    def report(self, report_data: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """A report of VMPL 0 over 64 bytes.

        Raises:
            UnsupportedError: there is no device.
            PlatformError: it fails.
            DeadlineError: the host is busy for longer than there is time.
        """
        return self._ask("GET_REPORT", GET_REPORT, _request(report_data), steps, deadline)

    def extended_report(
        self, report_data: bytes, steps: Steps, deadline: Deadline
    ) -> tuple[bytes, bytes]:
        """A report, and the host's certificate table, empty where the host has none.

        Raises:
            UnsupportedError: there is no device.
            PlatformError: it fails, or the host does not decide on a length.
            DeadlineError: the host is busy for longer than there is time.
        """
        step, request, table = "GET_EXT_REPORT", _request(report_data), None
        for _ in range(MAX_LENGTHS):
            try:
                report = self._ask(step, GET_EXT_REPORT, request, steps, deadline)
            except _OtherLengthError:
                table = self._table_for(request)
                continue
            return report, b"" if table is None else table.read(table.length)
        raise PlatformError(f"{self.path}: {step}: EMSGSIZE (the table's length keeps changing)")

    def _table_for(self, request: Pages) -> Pages:
        (wanted,) = struct.unpack("<I", request.read(4, TABLE_LENGTH_AT))
        if not 0 < wanted <= MAX_TABLE_BYTES:
            raise PlatformError(
                f"{self.path}: GET_EXT_REPORT: EMSGSIZE (the host wants {wanted} bytes for its "
                f"table, expected 1 to {MAX_TABLE_BYTES})"
            )
        table = Pages(wanted)
        request.write(struct.pack("<QI", table.address, table.length), TABLE_ADDRESS_AT)
        return table

    def _ask(self, step: str, code: int, request: Pages, steps: Steps, deadline: Deadline) -> bytes:
        if not self.is_there(steps):
            raise UnsupportedError(f"{self.path} does not exist")
        for attempt in itertools.count():
            response = Pages(RESPONSE_BYTES)
            argument = bytearray(
                ARGUMENT.pack(MESSAGE_VERSION, request.address, response.address, 0)
            )
            try:
                with steps.at(self.path, step):
                    self._kernel.control(self.path, code, argument)
            except PlatformError as error:
                result = ARGUMENT.unpack(argument)[3]
                if result >> 32 == VMM_BUSY and attempt < MAX_BUSY:
                    steps.pause(BUSY_PAUSE * 2**attempt, deadline)
                    continue
                if result >> 32 == VMM_INVALID_LENGTH and code == GET_EXT_REPORT:
                    raise _OtherLengthError from error
                raise _explained(error, result) from error
            return self._report_in(response, step)
        raise AssertionError("unreachable")

    def _report_in(self, response: Pages, step: str) -> bytes:
        status, size = RESPONSE_HEAD.unpack(response.read(RESPONSE_HEAD.size))
        if status:
            name = STATUS_NAMES.get(status, f"EIO (status {status:#x})")
            raise PlatformError(f"{self.path}: {step}: {name}")
        if size != REPORT_BYTES:
            raise PlatformError(f"{self.path}: {step}: EBADMSG (a report of {size} bytes)")
        return response.read(REPORT_BYTES, RESPONSE_HEAD.size)


def _request(report_data: bytes) -> Pages:
    assert len(report_data) == REPORT_DATA_BYTES
    request = Pages(REQUEST_BYTES)
    request.write(report_data)
    return request


def _explained(error: PlatformError, result: int) -> PlatformError:
    """The same with what firmware and host said, and what it means for the guest."""
    cause = error.__cause__
    text = f"{error}: firmware error {result & 0xFFFF_FFFF:#x}, VMM error {result >> 32:#x}"
    if isinstance(cause, OSError) and cause.errno == errno.ENOTTY:
        text += "; the key to the security processor is lost until the guest is launched anew"
    return PlatformError(text)
