"""Runtime measurement registers of a TD, by the number that a request names.

Source: docs/spec/attesters.md 3.3 and 3.6; docs/spec/attestation-agent.md 7.4.
"""

from typing import Final, Protocol

from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tdx_device import TdxDevice
from attestation_agent.hardware.tsm_mr import TsmRegisters
from attestation_agent.reports.tdx import REGISTER_BYTES, REPORT_DATA_BYTES
from attestation_agent.turn import Turns
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import InvalidInputError
from guest.initdata import fit


def ccmr_of(register: int) -> int:
    """The measurement register that stands for a PCR, as logs count: 1 is RTMR0.

    Raises:
        InvalidInputError: a negative number.
    """
    if register < 0:
        raise InvalidInputError(f"register {register} is no register")
    if register in (1, 7):
        return 1
    if 2 <= register <= 6:
        return 2
    if 8 <= register <= 15:
        return 3
    # Compat: upstream measures PCR 0 where it measures 16 and above.
    return 4


class RegisterAccess(Protocol):
    """How RTMR 0 to 3 are read and extended; blocks."""

    def read(self, number: int, steps: Steps) -> bytes:
        """Its 48 bytes."""
        ...

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        """Extend it with 48 bytes."""
        ...


class SysfsRegisters:
    """By tsm-mr."""

    def __init__(self, registers: TsmRegisters) -> None:
        """Touch nothing."""
        self._registers = registers

    def read(self, number: int, steps: Steps) -> bytes:
        """See `RegisterAccess`."""
        return self._registers.read_register(number, steps)

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        """See `RegisterAccess`."""
        self._registers.extend(number, digest, steps)


class IoctlRegisters:
    """By the device of a vendor kernel; its value is read from a TDREPORT."""

    def __init__(self, device: TdxDevice) -> None:
        """Open nothing."""
        self._device = device

    def read(self, number: int, steps: Steps) -> bytes:
        """See `RegisterAccess`."""
        return self._device.report(bytes(REPORT_DATA_BYTES), steps).registers[number]

    def extend(self, number: int, digest: bytes, steps: Steps) -> None:
        """See `RegisterAccess`."""
        self._device.extend(number, digest, steps)


class TdxRegisters:
    """`MeasurementRegisters` of a TD."""

    algorithm: Final = HashAlgorithm.SHA384

    def __init__(self, access: RegisterAccess, thread: DeviceThread) -> None:
        """Touch nothing; `access` blocks and is used in `thread`."""
        self._access = access
        self._thread = thread
        self.turns: Final = Turns("the event log")

    def log_index(self, register: int) -> int:
        """CCMR of a requested PCR.

        Raises:
            InvalidInputError: a negative number.
        """
        return ccmr_of(register)

    async def read(self, register: int, deadline: Deadline) -> bytes:
        """The 48 bytes of the RTMR that stands for a PCR.

        Raises:
            PlatformError: it cannot be read.
        """
        number = ccmr_of(register) - 1
        return await self._thread.run(lambda steps: self._access.read(number, steps), deadline)

    async def extend(self, register: int, digest: bytes, deadline: Deadline) -> None:
        """Extend it; a digest of another length is cut, or padded with zeros, to 48 bytes.

        Raises:
            PlatformError: it cannot be extended.
        """
        number = ccmr_of(register) - 1
        value = fit(digest, REGISTER_BYTES)
        await self._thread.run(lambda steps: self._access.extend(number, value, steps), deadline)
