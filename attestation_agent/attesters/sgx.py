"""The attester of an SGX enclave that Gramine or Occlum runs.

Source: docs/spec/attesters.md 1.4 and 11.
"""

from typing import Final

from attestation_agent.attesters.base import TeeHints, padded_report_data
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.sgx_quotes import (
    OCCLUM_DEVICE,
    QUOTE,
    USER_REPORT_DATA,
    GramineQuotes,
    OcclumQuotes,
    SgxQuotes,
)
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.sgx import SgxQuote
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError
from guest.tee import Tee
from guest.wire import encode_base64

TOO_LONG: Final = "SGX Attester: Report data should be SHA384 base64 String"
"""Compat: upstream's text, whatever it says."""


class SgxAttester:
    """Quotes of this enclave."""

    tee: Final = Tee.SGX
    registers: Final = None
    init_data: Final = None

    def __init__(self, quotes: SgxQuotes) -> None:
        """Keep the source of quotes; nothing is opened."""
        self._quotes = quotes
        self._quoting = FairTurns("the SGX quote device")
        self._thread = DeviceThread("SGX quote device")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`quote`.

        Raises:
            InvalidInputError: more than 64 bytes of report data.
            PlatformError: the device failed, or gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        bound = padded_report_data(report_data, TOO_LONG)
        async with self._quoting.held(deadline):
            quote = await self._thread.run(lambda steps: self._quote(bound, steps), deadline)
        return {"quote": encode_base64(quote)}

    def _quote(self, report_data: bytes, steps: Steps) -> bytes:
        """In the device's thread."""
        where, content = self._quotes.quote(report_data, steps)
        try:
            quote = SgxQuote.decode(content)
        except DecodeError as error:
            raise PlatformError(f"{where}: EBADMSG ({error})") from error
        if quote.report_data != report_data:
            raise PlatformError(f"{where}: EBADMSG (the quote binds other report data)")
        return content[: quote.length]


def open_sgx(hints: TeeHints) -> SgxAttester:
    """The attester of this enclave; opens nothing."""
    kernel = KERNEL if hints.kernel is None else hints.kernel
    if hints.occlum:
        return SgxAttester(OcclumQuotes(hints.at(OCCLUM_DEVICE), kernel))
    return SgxAttester(GramineQuotes(hints.at(USER_REPORT_DATA), hints.at(QUOTE), kernel))
