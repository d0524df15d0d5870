"""Where TD quotes come from: configfs-tsm, the quoting service, or an ioctl of vendor kernels.

The first source that this guest has is used. A source that is there and fails is an error, never a
reason to try the next one.

Source: docs/spec/attesters.md 3.1; docs/ARCHITECTURE.md, decisions 9 and 13.
"""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.steps import Steps, platform_error
from attestation_agent.hardware.tdx_device import ABSENT, TdxDevice
from attestation_agent.hardware.tsm import TsmReports
from attestation_agent.hardware.vsock_qgs import QuotingService
from attestation_agent.reports import qgs
from guest.deadline import Deadline
from guest.errors import GuestError, PlatformError, UnsupportedError, retold
from guest.rpc.address import Address, VsockAddress

log = logging.getLogger(__name__)

MAX_CONFIG_BYTES: Final = 64 * 1024


class QuoteSource(Protocol):
    """One way to get a quote; blocks."""

    @property
    def name(self) -> str:
        """As the configuration spells it."""
        ...

    def quote(self, report_data: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """A quote that binds 64 bytes.

        Raises:
            UnsupportedError: this guest does not have this source.
            PlatformError: it has it, and it failed.
        """
        ...


class ConfigfsQuotes:
    """Quotes through configfs-tsm."""

    name: Final = "configfs"

    def __init__(self, reports: TsmReports) -> None:
        """Use `reports` of the provider `tdx_guest`."""
        self._reports = reports

    def quote(self, report_data: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """See `QuoteSource`."""
        return self._reports.report(report_data, steps, deadline)


class VsockQuotes:
    """Quotes from the quoting service, where it is configured."""

    name: Final = "vsock"

    def __init__(
        self, device: TdxDevice, address: Address | None, config_file: str, kernel: KernelCalls
    ) -> None:
        """Connect to nothing.

        Args:
            device: gives the TDREPORT.
            address: of the service; None is the port that `config_file` names, on the host.
            config_file: `/etc/tdx-attest.conf`, or the same in another tree.
            kernel: reads it.
        """
        self._device = device
        self._address = address
        self._config_file = config_file
        self._kernel = kernel

    def quote(self, report_data: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """See `QuoteSource`."""
        address = self._address or self._configured(steps)
        if not self._device.is_there(steps):
            raise UnsupportedError(f"{self._device.path} does not exist")
        report = self._device.raw_report(report_data, steps)
        return QuotingService(address).quote(report, steps, deadline)

    def _configured(self, steps: Steps) -> Address:
        path = self._config_file
        steps.current = f"{path}: read"
        try:
            content = self._kernel.read(path, MAX_CONFIG_BYTES)
        except OSError as error:
            if error.errno in ABSENT:
                raise UnsupportedError(f"no service is configured: no {path}") from error
            raise platform_error(path, "read", error) from error
        port = qgs.find_port(content.decode("utf-8", "replace"))
        if port is None:
            raise UnsupportedError(f"no service is configured: no port in {path}")
        return VsockAddress(qgs.HOST_CID, port)


class IoctlQuotes:
    """Quotes through `GET_QUOTE` of a vendor kernel."""

    name: Final = "ioctl"

    def __init__(self, device: TdxDevice) -> None:
        """Open nothing."""
        self._device = device

    def quote(self, report_data: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """See `QuoteSource`."""
        return self._device.quote(report_data, steps, deadline)


class TakenQuote(msgspec.Struct, frozen=True):
    """A quote and where it came from.

    Attributes:
        content: the quote.
        source: name of the source.
    """

    content: bytes
    source: str


class Quotes:
    """The sources in order of preference; used by one thread at a time."""

    def __init__(self, sources: Sequence[QuoteSource]) -> None:
        """Ask none of them yet."""
        self._sources = tuple(sources)
        self._told: tuple[str, tuple[str, ...]] | None = None

    def quote(self, report_data: bytes, steps: Steps, deadline: Deadline) -> TakenQuote:
        """A quote from the first source that there is.

        Raises:
            PlatformError: there is none, or it failed; says why those before it were not used.
            DeadlineError: no time left.
        """
        reasons: list[str] = []
        for source in self._sources:
            try:
                content = source.quote(report_data, steps, deadline)
            except UnsupportedError as error:
                reasons.append(f"{source.name}: {error}")
                continue
            except GuestError as error:
                if not reasons:
                    raise
                text = f"{error}, by {source.name} because of {'; '.join(reasons)}"
                raise retold(error, text) from error
            self._tell(source.name, tuple(reasons))
            return TakenQuote(content, source.name)
        raise PlatformError(f"there is no source of TD quotes: {'; '.join(reasons)}")

    def _tell(self, name: str, reasons: tuple[str, ...]) -> None:
        """Log the source when it is another than before."""
        if self._told == (name, reasons):
            return
        self._told = (name, reasons)
        level = logging.WARNING if reasons else logging.INFO
        log.log(level, "TD quote source", extra={"source": name, "not_used": "; ".join(reasons)})
