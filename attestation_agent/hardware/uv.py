"""The ultravisor device of IBM Secure Execution: attestation.

Source: docs/spec/attesters.md 13; Linux, drivers/s390/char/uvdevice.c.
"""

import sys
from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.se import (
    EXECUTED,
    SeMeasurement,
    SeRequest,
    decode_argument,
    decode_control,
    encode_argument,
    encode_control,
)
from guest.errors import PlatformError

DEVICE: Final = "/dev/uv"

ATTEST: Final = 0xC0407501
"""`_IOWR('u', 1, 64)`."""

STEP: Final = "ATTEST"


class Ultravisor:
    """The device node; it is opened for each call and never kept."""

    def __init__(self, path: str, kernel: KernelCalls = KERNEL) -> None:
        """Open nothing; `path` is `DEVICE` or the same in another tree."""
        self._path = path
        self._kernel = kernel

    def attest(self, request: SeRequest, steps: Steps) -> SeMeasurement:
        """Let the ultravisor measure this guest; blocks.

        Raises:
            PlatformError: the device is absent or fails, the ultravisor refused, or it gave no
                additional data; names path, step and errno.
        """
        import ctypes

        blob = ctypes.create_string_buffer(request.control_block, len(request.control_block))
        measurement = ctypes.create_string_buffer(request.measurement_bytes)
        additional = ctypes.create_string_buffer(request.additional_bytes)
        places = (
            ctypes.addressof(blob),
            ctypes.addressof(measurement),
            ctypes.addressof(additional),
        )
        content = encode_argument(request, places, sys.byteorder)
        argument = ctypes.create_string_buffer(content, len(content))
        control = bytearray(encode_control(ctypes.addressof(argument), sys.byteorder))
        with steps.at(self._path, STEP):
            self._kernel.control(self._path, ATTEST, control)
        code, reason = decode_control(bytes(control), sys.byteorder)
        if code != EXECUTED:
            raise PlatformError(
                f"{self._path}: {STEP}: EIO (the ultravisor says {code:#06x}, reason {reason:#06x})"
            )
        uid, length = decode_argument(argument.raw, sys.byteorder)
        if not 1 <= length <= request.additional_bytes:
            raise PlatformError(
                f"{self._path}: {STEP}: EBADMSG ({length} bytes of additional data, "
                f"expected 1 to {request.additional_bytes})"
            )
        return SeMeasurement(
            measurement=measurement.raw, additional_data=additional.raw[:length], config_uid=uid
        )
