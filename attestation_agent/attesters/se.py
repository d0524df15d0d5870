"""The attester of an IBM Secure Execution guest.

Source: docs/spec/attesters.md 1.4 and 13.
"""

from typing import Final

from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.uv import DEVICE, Ultravisor
from attestation_agent.reports.se import SeRequest, evidence_of
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError
from guest.tee import Tee


class SeAttester:
    """Measurements by the ultravisor; nothing is measured at run time, nothing is bound."""

    tee: Final = Tee.SE
    registers: Final = None
    init_data: Final = None

    def __init__(self, ultravisor: Ultravisor) -> None:
        """Open nothing."""
        self._ultravisor = ultravisor
        self._turns = FairTurns("the ultravisor")
        self._thread = DeviceThread("ultravisor device")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """The ultravisor's answer to the request that `report_data` is.

        Args:
            report_data: JSON: the verifier's request with `runtime_data_digest` added.
            deadline: when the device must have answered.

        Raises:
            InvalidInputError: not such a request, or its digest is missing or too long.
            PlatformError: the device failed, or the ultravisor refused.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        try:
            request = SeRequest.decode(report_data)
        except DecodeError as error:
            raise InvalidInputError(str(error)) from error
        async with self._turns.held(deadline):
            answer = await self._thread.run(
                lambda steps: self._ultravisor.attest(request, steps), deadline
            )
        return evidence_of(request, answer)


def open_se(hints: TeeHints) -> SeAttester:
    """The attester of this guest; opens no device."""
    kernel = KERNEL if hints.kernel is None else hints.kernel
    return SeAttester(Ultravisor(hints.at(DEVICE), kernel))
