"""Hygon's service for the certificates above a chip's endorsement key.

Source: docs/spec/attesters.md 12.1; docs/spec/attestation-agent.md 1.5.
"""

from typing import Final
from urllib.parse import quote

from attestation_agent.reports.csv import CERTIFICATE_BYTES, HSK_BYTES
from guest.deadline import Deadline
from guest.errors import PeerError
from guest.http import HttpClient
from guest.proxies import Proxies
from guest.version import VERSION

SERVICE: Final = "https://cert.hygon.cn"
CHAIN_BYTES: Final = HSK_BYTES + CERTIFICATE_BYTES


class HygonCertificates:
    """Fetches the chain of one chip; it does not change, so that it is fetched once."""

    def __init__(self, proxies: Proxies, service: str = SERVICE) -> None:
        """Connect to nothing."""
        self._proxies = proxies
        self._service = service
        self._found: dict[str, bytes] = {}

    async def chain(self, serial_number: str, deadline: Deadline) -> bytes:
        """HSK and CEK certificate of a chip, 2916 bytes.

        Raises:
            PeerError: the service does not know the chip, or answers something else.
            UnavailableError: it cannot be reached.
            DeadlineError: it takes longer than there is time.
        """
        known = self._found.get(serial_number)
        if known is not None:
            return known
        url = f"{self._service}/hsk_cek?snumber={quote(serial_number, safe='')}"
        http = HttpClient(user_agent=f"attestation-agent/{VERSION}", proxies=self._proxies)
        try:
            response = await http.request("GET", url, deadline=deadline, max_body=CHAIN_BYTES)
        finally:
            await http.close()
        if response.status != 200 or len(response.body) != CHAIN_BYTES:
            raise PeerError(
                f"{self._service} answered status {response.status} with {len(response.body)} "
                f"bytes for chip {serial_number}, expected 200 with {CHAIN_BYTES}"
            )
        self._found[serial_number] = response.body
        return response.body
