"""The attester of an Azure SEV-SNP guest with a paravisor.

Source: docs/spec/attesters.md 8.
"""

from typing import Final

from attestation_agent.attesters.az_vtpm import AzureAttester, AzureKind, open_azure
from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware.azure_metadata import AzureMetadata
from attestation_agent.reports.hcl import HclReport, ReportType
from guest.deadline import Deadline
from guest.tee import Tee

CERTIFICATE_MEMBER: Final = "vcek"


class ChipCertificates:
    """The chip's certificate from the metadata service, kept while report and TCB stay."""

    def __init__(self, metadata: AzureMetadata) -> None:
        """Connect to nothing."""
        self._metadata = metadata
        self._known: tuple[bytes, bytes] | None = None

    async def fetch(self, report: HclReport, deadline: Deadline) -> bytes:
        """The certificate that the report is verified with, DER.

        Raises:
            GuestError: as `AzureMetadata.vcek`.
        """
        wanted = report.certificate_id
        if self._known is None or self._known[0] != wanted:
            self._known = (wanted, await self._metadata.vcek(deadline))
        return self._known[1]


def open_az_snp(hints: TeeHints, path: str) -> AzureAttester:
    """The attester on the TPM at `path`; opens nothing."""
    kind = AzureKind(
        tee=Tee.AZ_SNP_VTPM,
        type=ReportType.SNP,
        member=CERTIFICATE_MEMBER,
        fetch=ChipCertificates(AzureMetadata(hints.azure_metadata)).fetch,
    )
    return open_azure(hints, path, kind)
