"""The attester of an SEV-SNP guest.

Source: docs/spec/attesters.md 1.4 and 4; docs/spec/attestation-agent.md 6.3.
"""

from typing import Final

from attestation_agent.attesters.base import TeeHints, padded_report_data
from attestation_agent.hardware import tsm
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.sev_guest import NODE, SevGuestDevice
from attestation_agent.hardware.snp_reports import SnpReports, TakenReport
from attestation_agent.hardware.tsm import TsmReports
from attestation_agent.reports.snp import HOST_DATA_BYTES, REPORT_DATA_BYTES, certificate_chain
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import IntegrityError
from guest.initdata import fit
from guest.tee import Tee

PROVIDER: Final = "sev_guest"

TOO_LONG: Final = "SNP Attester: Report data must be no more than 64 bytes"


class SnpDevice:
    """The source of reports, used by one caller at a time."""

    def __init__(self, reports: SnpReports) -> None:
        """Touch nothing."""
        self._reports = reports
        self._turns = FairTurns("the SNP report device")
        self._thread = DeviceThread("SNP report device")

    async def take(
        self, report_data: bytes, deadline: Deadline, *, has_certificates: bool = True
    ) -> TakenReport:
        """A report over 64 bytes, with the host's certificates unless they are not wanted.

        Raises:
            PlatformError: the device failed, or gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        async with self._turns.held(deadline):
            return await self._thread.run(
                lambda steps: self._reports.take(
                    report_data, steps, deadline, has_certificates=has_certificates
                ),
                deadline,
            )


class SnpInitData:
    """Init data of an SNP guest is what the host put into HOST_DATA at launch."""

    def __init__(self, device: SnpDevice) -> None:
        """Read nothing yet."""
        self._device = device

    async def bind(self, digest: bytes, deadline: Deadline) -> None:
        """Compare; there is nothing to bind once the guest runs.

        Raises:
            IntegrityError: `HOSTDATA does not match.`
            PlatformError: there is no report to compare with.
        """
        zeros = bytes(REPORT_DATA_BYTES)
        taken = await self._device.take(zeros, deadline, has_certificates=False)
        found, expected = taken.report.host_data, fit(digest, HOST_DATA_BYTES)
        if found != expected:
            cause = IntegrityError(f"HOST_DATA is {found.hex()}, expected {expected.hex()}")
            raise IntegrityError("HOSTDATA does not match.") from cause


class SnpAttester:
    """Reports of this guest, with the certificates that the host has for its chip."""

    tee: Final = Tee.SNP
    registers: Final = None

    def __init__(self, device: SnpDevice) -> None:
        """Keep the device; nothing is opened."""
        self._device = device
        self.init_data: Final = SnpInitData(device)

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`attestation_report` and `cert_chain`, which is null without the chip's certificate.

        Raises:
            InvalidInputError: more than 64 bytes of report data.
            PlatformError: the device failed, or gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        bound = padded_report_data(report_data, TOO_LONG)
        taken = await self._device.take(bound, deadline)
        return {
            "attestation_report": taken.report.evidence(),
            "cert_chain": certificate_chain(taken.certificates),
        }


def open_snp(hints: TeeHints) -> SnpAttester:
    """The attester of this guest; looks at names, opens no device."""
    kernel = KERNEL if hints.kernel is None else hints.kernel
    tsm.remove_leftovers(hints.at(tsm.REPORTS), kernel)
    reports = TsmReports(hints.at(tsm.REPORTS), PROVIDER, kernel)
    return SnpAttester(SnpDevice(SnpReports(reports, SevGuestDevice(hints.at(NODE), kernel))))
