"""The attester of an Azure TDX guest with a paravisor.

Source: docs/spec/attesters.md 7.
"""

from typing import Final

from attestation_agent.attesters.az_vtpm import AzureAttester, AzureKind, open_azure
from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware.azure_metadata import AzureMetadata
from attestation_agent.reports.hcl import HclReport, ReportType
from attestation_agent.reports.tdx import TdQuote
from guest.deadline import Deadline
from guest.errors import DecodeError, PeerError
from guest.tee import Tee

QUOTE_MEMBER: Final = "td_quote"


class TdQuotes:
    """TD quotes from the metadata service."""

    def __init__(self, metadata: AzureMetadata) -> None:
        """Connect to nothing."""
        self._metadata = metadata

    async def fetch(self, report: HclReport, deadline: Deadline) -> bytes:
        """The quote over the report's TDREPORT.

        Raises:
            PeerError: the service gave something else.
            GuestError: as `AzureMetadata.td_quote`.
        """
        content = await self._metadata.td_quote(report.hardware, deadline)
        try:
            quote = TdQuote.decode(content)
        except DecodeError as error:
            raise PeerError("the metadata service gave no TD quote") from error
        if quote.report_data != report.report_data:
            raise PeerError("the metadata service gave a TD quote over something else")
        return content


def open_az_tdx(hints: TeeHints, path: str) -> AzureAttester:
    """The attester on the TPM at `path`; opens nothing."""
    kind = AzureKind(
        tee=Tee.AZ_TDX_VTPM,
        type=ReportType.TDX,
        member=QUOTE_MEMBER,
        fetch=TdQuotes(AzureMetadata(hints.azure_metadata)).fetch,
    )
    return open_azure(hints, path, kind)
