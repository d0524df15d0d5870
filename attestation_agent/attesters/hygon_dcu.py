"""The attester of Hygon accelerators (DCU) beside the primary TEE.

Source: docs/spec/attesters.md 1.4 and 12.3.
"""

import logging
from typing import Final

from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware.device import KFD_NODES
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.mkfd import NODE, MkfdDevice
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.hygon_dcu import USER_DATA_BYTES, DcuReport
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError
from guest.initdata import fit
from guest.tee import Tee

log = logging.getLogger(__name__)


class HygonDcuAttester:
    """Reports of all accelerators that this guest may use."""

    tee: Final = Tee.HYGON_DCU
    registers: Final = None
    init_data: Final = None

    def __init__(self, device: MkfdDevice, accelerators: frozenset[int]) -> None:
        """Keep the device; nothing is opened.

        Args:
            device: gives the reports.
            accelerators: those that were there at start; one that is missing later is an error.
        """
        self._device = device
        self._seen = accelerators
        self._reporting = FairTurns("the DCU report device")
        self._thread = DeviceThread("DCU report device")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`attestation_reports`, one for each accelerator; of the report data, 64 bytes.

        Raises:
            PlatformError: there is no accelerator, one that was there is gone, or one failed or
                gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        if len(report_data) > USER_DATA_BYTES:
            extra = {"bytes": len(report_data), "taken": USER_DATA_BYTES}
            log.warning("DCU report data is cut", extra=extra)
        bound = fit(report_data, USER_DATA_BYTES)
        async with self._reporting.held(deadline):
            reports = await self._thread.run(lambda steps: self._reports(bound, steps), deadline)
        return {"attestation_reports": [report.evidence() for report in reports]}

    def _reports(self, user_data: bytes, steps: Steps) -> tuple[DcuReport, ...]:
        """In the device's thread."""
        accelerators = self._device.accelerators(steps)
        gone = self._seen.difference(accelerators)
        if gone:
            names = ", ".join(str(number) for number in sorted(gone))
            raise PlatformError(f"{self._device.path}: list: ENODEV (accelerator {names} is gone)")
        if not accelerators:
            raise PlatformError(f"{self._device.path}: list: ENODEV (there is no accelerator)")
        self._seen = self._seen.union(accelerators)
        return tuple(self._report(number, user_data, steps) for number in accelerators)

    def _report(self, accelerator: int, user_data: bytes, steps: Steps) -> DcuReport:
        response = self._device.response(accelerator, user_data, steps)
        where = f"{self._device.path}: ATTEST {accelerator}"
        try:
            report = DcuReport.decode_response(response)
        except DecodeError as error:
            raise PlatformError(f"{where}: EBADMSG ({error})") from error
        if report.user_data != user_data:
            raise PlatformError(f"{where}: EBADMSG (the report binds other user data)")
        return report


def open_hygon_dcu(hints: TeeHints) -> HygonDcuAttester:
    """The attester of the accelerators that there are now; opens no device.

    Raises:
        PlatformError: which there are cannot be told.
    """
    kernel = KERNEL if hints.kernel is None else hints.kernel
    device = MkfdDevice(hints.at(NODE), hints.at(KFD_NODES), kernel)
    return HygonDcuAttester(device, frozenset(device.accelerators(Steps())))
