"""The attester of a Hygon CSV guest.

Source: docs/spec/attesters.md 1.4, 1.5 and 12; docs/spec/attestation-agent.md 1.5, 7.3 and 7.4.
"""

import secrets
from typing import Final, Protocol

from attestation_agent.attesters.base import TeeHints, padded_report_data
from attestation_agent.attesters.csv_registers import CsvRegisters
from attestation_agent.eventlog.files import DIRECTORY, LOG_NAME
from attestation_agent.eventlog.gather import FIRMWARE_LOG, LogGatherer
from attestation_agent.hardware.csv_guest import NODE, CsvGuestDevice
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.csv import (
    NONCE_BYTES,
    CsvReport,
    certificate_evidence,
    chain_evidence,
    encode_request,
)
from attestation_agent.turn import FairTurns
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError
from guest.tee import Tee
from guest.wire import encode_base64

TOO_LONG: Final = "CSV Attester: Report data must be no more than 64 bytes"


class ChainSource(Protocol):
    """Who has the certificates above a chip's own."""

    async def chain(self, serial_number: str, deadline: Deadline) -> bytes:
        """HSK, then CEK, of the chip; GuestError where they cannot be had."""
        ...


class CsvAttester:
    """Reports of this guest, together with the event log that explains its registers."""

    tee: Final = Tee.CSV
    init_data: Final = None

    def __init__(
        self,
        device: CsvGuestDevice,
        gatherer: LogGatherer,
        *,
        registers: CsvRegisters,
        chains: ChainSource | None,
    ) -> None:
        """Keep the parts; nothing is opened.

        Args:
            device: gives the reports.
            gatherer: reads the event logs.
            registers: of the same device.
            chains: adds HSK and CEK to evidence; None leaves them to the verifier.
        """
        self._device = device
        self._gatherer = gatherer
        self.registers: Final = registers
        self._chains = chains
        self._reporting = FairTurns("the CSV report device")
        self._thread = DeviceThread("CSV report device")
        self._log_thread = DeviceThread("event log reader")

    @property
    def asks_for_chains(self) -> bool:
        """Whether evidence carries HSK and CEK."""
        return self._chains is not None

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """The report, the chip's certificates, its number, and a log that explains the registers.

        Raises:
            InvalidInputError: more than 64 bytes of report data.
            PlatformError: the device failed, or gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
            GuestError: the certificates were asked for and cannot be had.
        """
        bound = padded_report_data(report_data, TOO_LONG)
        async with self._reporting.held(deadline), self.registers.turns.held(deadline):
            report = await self._thread.run(lambda steps: self._report(bound, steps), deadline)
            own = await self._log_thread.run(self._gatherer.read_own, deadline)
        event_log = await self._event_log(report, own, deadline)
        return {
            "attestation_report": report.evidence(),
            "cert_chain": await self._cert_chain(report, deadline),
            "serial_number": list(report.serial_number),
            "cc_eventlog": None if event_log is None else encode_base64(event_log),
        }

    def _report(self, report_data: bytes, steps: Steps) -> CsvReport:
        """In the device's thread."""
        is_extended = self._device.has_registers(steps)
        nonce = secrets.token_bytes(NONCE_BYTES)
        request = encode_request(report_data, nonce, is_extended=is_extended)
        answer = self._device.report(request, steps)
        path = self._device.path
        try:
            report = CsvReport.repair(answer, nonce, is_extended=is_extended)
        except DecodeError as error:
            raise PlatformError(f"{path}: GET_REPORT: EBADMSG ({error})") from error
        if report.report_data != report_data:
            text = "the report binds other report data"
            raise PlatformError(f"{path}: GET_REPORT: EBADMSG ({text})")
        return report

    async def _event_log(
        self, report: CsvReport, own: bytes | None, deadline: Deadline
    ) -> bytes | None:
        """None where the report has no registers that a log could explain."""
        if not report.is_extended:
            return None
        # Logs count from 1 what verifiers replay; nothing explains rtmr0.
        values = report.registers[1:]
        return await self._log_thread.run(
            lambda steps: self._gatherer.gather(own, values, HashAlgorithm.SM3, steps), deadline
        )

    async def _cert_chain(self, report: CsvReport, deadline: Deadline) -> dict[str, object]:
        chain: dict[str, object] = {}
        if self._chains is not None:
            try:
                data = await self._chains.chain(report.serial_text, deadline)
            except DecodeError as error:
                raise PlatformError(
                    f"{self._device.path}: GET_REPORT: EBADMSG ({error})"
                ) from error
            chain["hsk_cek"] = chain_evidence(data)
        chain["pek"] = certificate_evidence(report.certificate)
        return chain


def open_csv(hints: TeeHints) -> CsvAttester:
    """The attester of this guest; opens no device and connects to nothing."""
    kernel = KERNEL if hints.kernel is None else hints.kernel
    device = CsvGuestDevice(hints.at(NODE), kernel)
    own_path = hints.event_log_path or hints.at(f"{DIRECTORY}/{LOG_NAME}")
    return CsvAttester(
        device,
        LogGatherer(hints.at(FIRMWARE_LOG), own_path, kernel),
        registers=CsvRegisters(device, DeviceThread("CSV registers")),
        chains=_chains(hints),
    )


def _chains(hints: TeeHints) -> ChainSource | None:
    if not hints.csv_certificates:
        return None
    from attestation_agent.hardware.hygon_certificates import HygonCertificates

    return HygonCertificates(hints.proxies)
