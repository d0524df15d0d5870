"""Runtime measurement registers of a CSV guest, by the number that a request names.

Source: docs/spec/attesters.md 12.2; docs/spec/attestation-agent.md 7.4.
"""

from typing import Final

from attestation_agent.hardware.csv_guest import CsvGuestDevice
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.reports.csv import REGISTER_BYTES
from attestation_agent.turn import Turns
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import InvalidInputError
from guest.initdata import fit


def rtmr_of(register: int) -> int:
    """The register that stands for a PCR; logs give it the same number.

    Raises:
        InvalidInputError: a negative number.
    """
    if register < 0:
        raise InvalidInputError(f"register {register} is no register")
    if register == 0:
        return 0
    if register in (1, 7):
        return 1
    if register <= 6:
        return 2
    if register <= 15:
        return 3
    return 4


class CsvRegisters:
    """`MeasurementRegisters` of a CSV guest."""

    algorithm: Final = HashAlgorithm.SM3

    def __init__(self, device: CsvGuestDevice, thread: DeviceThread) -> None:
        """Touch nothing; `device` blocks and is used in `thread`."""
        self._device = device
        self._thread = thread
        self.turns: Final = Turns("the event log")

    def log_index(self, register: int) -> int:
        """The register that stands for a requested PCR.

        Raises:
            InvalidInputError: a negative number.
        """
        return rtmr_of(register)

    async def read(self, register: int, deadline: Deadline) -> bytes:
        """The 32 bytes of the register that stands for a PCR.

        Raises:
            UnsupportedError: this guest has no registers.
            PlatformError: it cannot be read.
        """
        number = rtmr_of(register)
        return await self._thread.run(
            lambda steps: self._device.read_register(number, steps), deadline
        )

    async def extend(self, register: int, digest: bytes, deadline: Deadline) -> None:
        """Extend it; a digest of another length is cut, or padded with zeros, to 32 bytes.

        Raises:
            UnsupportedError: this guest has no registers.
            PlatformError: it cannot be extended.
        """
        number = rtmr_of(register)
        value = fit(digest, REGISTER_BYTES)
        await self._thread.run(lambda steps: self._device.extend(number, value, steps), deadline)
