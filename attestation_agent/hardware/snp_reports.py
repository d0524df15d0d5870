"""Where SNP reports come from: configfs-tsm, or the guest device where that is not there.

An interface that is there and fails is an error, never a reason to try the next one.

Source: docs/spec/attesters.md 4.2 and 4.3; docs/ARCHITECTURE.md, decisions 9 and 13.
"""

import logging
from typing import Final

import msgspec

from attestation_agent.hardware.sev_guest import SevGuestDevice
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tsm import TsmReports
from attestation_agent.reports.snp import (
    Certificate,
    SnpReport,
    parse_certificates,
)
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, PlatformError, UnsupportedError, retold

log = logging.getLogger(__name__)

CONFIGFS: Final = "configfs"
DEVICE: Final = "ioctl"


class TakenReport(msgspec.Struct, frozen=True):
    """A report that binds what was asked for, and what the host gave beside it.

    Attributes:
        report: decoded.
        certificates: of the host's table; none where it has no table.
    """

    report: SnpReport
    certificates: tuple[Certificate, ...]


class SnpReports:
    """Both interfaces; used by one thread at a time."""

    def __init__(self, reports: TsmReports, device: SevGuestDevice) -> None:
        """Ask neither yet."""
        self._reports = reports
        self._device = device
        self._told = ""

    def take(
        self, report_data: bytes, steps: Steps, deadline: Deadline, *, has_certificates: bool = True
    ) -> TakenReport:
        """A report over 64 bytes, with the host's certificates unless they are not wanted.

        Raises:
            PlatformError: neither interface is there, or the one that is failed or gave something
                else than was asked for.
            DeadlineError: no time left.
        """
        try:
            source, reason = CONFIGFS, ""
            report, table = self._by_configfs(report_data, steps, deadline, has_certificates)
        except UnsupportedError as absent:
            source, reason = DEVICE, str(absent)
            try:
                report, table = self._by_device(report_data, steps, deadline, has_certificates)
            except UnsupportedError as error:
                text = f"there is no source of SNP reports: {CONFIGFS}: {absent}; {DEVICE}: {error}"
                raise PlatformError(text) from error
            except GuestError as error:
                text = f"{error}, by {DEVICE} because of {CONFIGFS}: {absent}"
                raise retold(error, text) from error
        self._tell(source, reason)
        return _decoded(report, table, report_data, source)

    def _by_configfs(
        self, report_data: bytes, steps: Steps, deadline: Deadline, has_certificates: bool
    ) -> tuple[bytes, bytes]:
        if has_certificates:
            return self._reports.report_with_auxiliary(report_data, steps, deadline)
        return self._reports.report(report_data, steps, deadline), b""

    def _by_device(
        self, report_data: bytes, steps: Steps, deadline: Deadline, has_certificates: bool
    ) -> tuple[bytes, bytes]:
        if has_certificates:
            return self._device.extended_report(report_data, steps, deadline)
        return self._device.report(report_data, steps, deadline), b""

    def _tell(self, source: str, reason: str) -> None:
        """Log the source when it is another than before."""
        if self._told == source + reason:
            return
        self._told = source + reason
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "SNP report source", extra={"source": source, "not_used": reason})


def _decoded(report: bytes, table: bytes, report_data: bytes, source: str) -> TakenReport:
    try:
        taken = TakenReport(SnpReport.decode(report), parse_certificates(table))
    except DecodeError as error:
        raise PlatformError(f"SNP report by {source}: read: EBADMSG ({error})") from error
    if taken.report.report_data != report_data:
        raise PlatformError(
            f"SNP report by {source}: read: EBADMSG (the report binds other report data)"
        )
    return taken
