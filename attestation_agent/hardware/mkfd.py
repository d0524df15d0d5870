"""Hygon accelerators: which there are, and their driver's attestation call.

Source: docs/spec/attesters.md 12.3.
"""

import errno
import logging
import struct
from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.memory import Pages
from attestation_agent.hardware.steps import Steps, platform_error
from attestation_agent.reports.hygon_dcu import RESPONSE_BYTES, USER_DATA_BYTES
from guest.errors import PlatformError

log = logging.getLogger(__name__)

NODE: Final = "/dev/mkfd"

ATTEST: Final = 0xC0384D17
"""`_IOWR('M', 0x17, 56)`."""

ARGUMENT: Final = struct.Struct("<III4xQQQQQ")
"""Accelerator, command, version, request, its length, response, its length, firmware's error."""

COMMAND: Final = 0
VERSION: Final = 1
PAGE: Final = 4096

NOT_OURS: Final = (errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EACCES)
"""What a node says that this guest may not use; any other failure is one."""

MAX_ID_BYTES: Final = 64
MAX_NODES: Final = 1024


class MkfdDevice:
    """The device node; it is opened for each call and never kept."""

    def __init__(self, path: str, topology: str, kernel: KernelCalls) -> None:
        """Open nothing."""
        self.path: Final = path
        self._topology = topology
        self._kernel = kernel

    def accelerators(self, steps: Steps) -> tuple[int, ...]:
        """Numbers of the accelerators in the order of the topology; processors are left out.

        Raises:
            PlatformError: the topology cannot be read, or says something else.
        """
        with steps.at(self._topology, "list"):
            count = len(self._kernel.list_names(self._topology))
        if count > MAX_NODES:
            raise PlatformError(f"{self._topology}: list: E2BIG ({count} nodes)")
        found = (
            self._find_id(f"{self._topology}/{number}/gpu_id", steps) for number in range(count)
        )
        return tuple(number for number in found if number)

    def _find_id(self, path: str, steps: Steps) -> int:
        """0 for what is no accelerator of this guest."""
        steps.current = f"{path}: read"
        try:
            text = self._kernel.read(path, MAX_ID_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            if error.errno in NOT_OURS:
                log.debug("accelerator left out", extra={"path": path, "error": str(error)})
                return 0
            raise platform_error(path, "read", error) from error
        if not (text.isascii() and text.isdecimal() and int(text) < 2**32):
            raise PlatformError(f"{path}: read: EBADMSG (no number: {text[:20]!r})")
        return int(text)

    def response(self, accelerator: int, user_data: bytes, steps: Steps) -> bytes:
        """What one accelerator answers to 64 bytes, 4096 bytes.

        Raises:
            PlatformError: the driver or its firmware fails.
        """
        assert len(user_data) == USER_DATA_BYTES
        request, response = Pages(PAGE), Pages(RESPONSE_BYTES)
        request.write(user_data)
        argument = bytearray(
            ARGUMENT.pack(
                accelerator, COMMAND, VERSION,
                request.address, PAGE, response.address, RESPONSE_BYTES, 0,
            )
        )  # fmt: skip
        step = f"ATTEST {accelerator}"
        with steps.at(self.path, step):
            self._kernel.control(self.path, ATTEST, argument)
        fault = ARGUMENT.unpack(argument)[-1]
        if fault:
            raise PlatformError(f"{self.path}: {step}: EIO (firmware error {fault:#x})")
        return response.read(RESPONSE_BYTES)
