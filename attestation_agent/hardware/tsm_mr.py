"""Measurement registers in sysfs ("tsm-mr", Linux 6.16): read as raw bytes, extended by writing.

Source: docs/spec/attesters.md 3.3.
"""

from typing import Final

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.tdx import REGISTER_BYTES
from guest.errors import PlatformError

MEASUREMENTS: Final = "/sys/devices/virtual/misc/tdx_guest/measurements"


class TsmRegisters:
    """The registers of one provider, SHA-384."""

    def __init__(self, directory: str, kernel: KernelCalls = KERNEL) -> None:
        """Touch nothing; `directory` is `MEASUREMENTS` or the same in another tree."""
        self._directory = directory
        self._kernel = kernel

    def is_there(self, steps: Steps) -> bool:
        """Whether this kernel has them.

        Raises:
            PlatformError: that cannot be told.
        """
        with steps.at(self._directory, "stat"):
            return self._kernel.exists(self._directory)

    def read(self, name: str, steps: Steps) -> bytes:
        """The 48 bytes of `mrconfigid`, `rtmr3:sha384`, ...

        Raises:
            PlatformError: it cannot be read, or has another length.
        """
        path = f"{self._directory}/{name}"
        with steps.at(path, "read"):
            value = self._kernel.read(path, REGISTER_BYTES + 1)
        if len(value) != REGISTER_BYTES:
            raise PlatformError(f"{path}: read: {len(value)} bytes, expected {REGISTER_BYTES}")
        return value

    def read_register(self, number: int, steps: Steps) -> bytes:
        """RTMR `number`, 0 to 3.

        Raises:
            PlatformError: as `read`.
        """
        return self.read(f"rtmr{number}:sha384", steps)

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        """Extend RTMR `number` with exactly 48 bytes, in one write.

        Raises:
            PlatformError: it cannot be written.
        """
        assert len(digest) == REGISTER_BYTES
        path = f"{self._directory}/rtmr{number}:sha384"
        with steps.at(path, "write"):
            taken = self._kernel.write(path, digest)
        if taken != REGISTER_BYTES:
            raise PlatformError(f"{path}: write: took {taken} bytes, expected {REGISTER_BYTES}")
