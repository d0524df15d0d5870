"""The attester of an Arm CCA realm.

Source: docs/spec/attesters.md 1.3, 1.4 and 10.
"""

from typing import Final

from attestation_agent.attesters.base import TeeHints, padded_report_data
from attestation_agent.hardware import tsm
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tsm import TsmReports
from attestation_agent.reports.cca import CcaToken
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError, UnsupportedError
from guest.tee import Tee

PROVIDER: Final = "arm_cca_guest"

TOO_LONG: Final = "CCA Attester: Challenge size must be 64 bytes or less."


class CcaAttester:
    """Tokens of this realm; nothing is measured at run time, nothing is bound."""

    tee: Final = Tee.CCA
    registers: Final = None
    init_data: Final = None

    def __init__(self, reports: TsmReports, root: str) -> None:
        """Touch nothing; `root` names the interface in errors."""
        self._reports = reports
        self._root = root
        self._turns = FairTurns("the realm's token")
        self._thread = DeviceThread("CCA token device")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`token`: its bytes as numbers.

        Raises:
            InvalidInputError: more than 64 bytes of report data.
            PlatformError: the kernel failed, or gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        challenge = padded_report_data(report_data, TOO_LONG)
        async with self._turns.held(deadline):
            token = await self._thread.run(
                lambda steps: self._token(challenge, steps, deadline), deadline
            )
        return {"token": list(token)}

    def _token(self, challenge: bytes, steps: Steps, deadline: Deadline) -> bytes:
        try:
            token = self._reports.report(challenge, steps, deadline)
        except UnsupportedError as error:
            raise PlatformError(str(error)) from error
        try:
            bound = CcaToken.decode(token).challenge
        except DecodeError as error:
            raise PlatformError(f"{self._root}: read: EBADMSG ({error})") from error
        if bound != challenge:
            raise PlatformError(f"{self._root}: read: EBADMSG (the token binds other report data)")
        return token


def open_cca(hints: TeeHints) -> CcaAttester:
    """The attester of this realm; removes reports that dead agents left."""
    kernel = KERNEL if hints.kernel is None else hints.kernel
    root = hints.at(tsm.REPORTS)
    tsm.remove_leftovers(root, kernel)
    return CcaAttester(TsmReports(root, PROVIDER, kernel), root)
