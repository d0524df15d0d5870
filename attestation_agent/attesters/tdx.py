"""The attester of a TDX guest.

Source: docs/spec/attesters.md 1.5 and 3; docs/spec/attestation-agent.md 6.3, 7.4 and 7.7.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from attestation_agent.attesters.base import QuoteChoice, TeeHints, padded_report_data
from attestation_agent.attesters.tdx_registers import (
    IoctlRegisters,
    RegisterAccess,
    SysfsRegisters,
    TdxRegisters,
)
from attestation_agent.eventlog.files import DIRECTORY, LOG_NAME
from attestation_agent.eventlog.gather import FIRMWARE_LOG, LogGatherer
from attestation_agent.hardware import tsm, tsm_mr
from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.device import TDX_NODES
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.quotes import (
    ConfigfsQuotes,
    IoctlQuotes,
    Quotes,
    QuoteSource,
    TakenQuote,
    VsockQuotes,
)
from attestation_agent.hardware.steps import Steps
from attestation_agent.hardware.tdx_device import TdxDevice, find_node
from attestation_agent.hardware.tsm import TsmReports
from attestation_agent.hardware.tsm_mr import TsmRegisters
from attestation_agent.reports.qgs import CONFIG_FILE
from attestation_agent.reports.tdx import REGISTER_BYTES, REPORT_DATA_BYTES, TdQuote
from attestation_agent.turn import FairTurns, Turns
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, PlatformError
from guest.initdata import fit
from guest.rpc.address import parse_address
from guest.tee import Tee
from guest.wire import encode_base64

T = TypeVar("T")

PROVIDER: Final = "tdx_guest"

TOO_LONG: Final = "TDX Attester: Report data must be no more than 64 bytes"


class TdxInitData:
    """Init data of a TD is what the host put into MRCONFIGID at launch."""

    def __init__(self, read_config_id: Callable[[Steps], bytes], thread: DeviceThread) -> None:
        """Read nothing yet; `read_config_id` blocks and runs in `thread`."""
        self._read = read_config_id
        self._thread = thread

    async def bind(self, digest: bytes, deadline: Deadline) -> None:
        """Compare; there is nothing to bind once the guest runs.

        Raises:
            IntegrityError: `Init data does not match!`
            PlatformError: MRCONFIGID cannot be read.
        """
        found = await self._thread.run(self._read, deadline)
        expected = fit(digest, REGISTER_BYTES)
        if found != expected:
            cause = IntegrityError(f"MRCONFIGID is {found.hex()}, expected {expected.hex()}")
            raise IntegrityError("Init data does not match!") from cause


class TdxAttester:
    """Quotes of this TD, together with the event log that explains its registers."""

    tee: Final = Tee.TDX

    def __init__(
        self,
        quotes: Quotes,
        gatherer: LogGatherer,
        *,
        registers: TdxRegisters | None,
        init_data: TdxInitData,
    ) -> None:
        """Keep the parts; nothing is opened.

        Args:
            quotes: the sources of quotes.
            gatherer: reads the event logs.
            registers: for runtime measurement, where the kernel has it.
            init_data: compares MRCONFIGID.
        """
        self._quotes = quotes
        self._gatherer = gatherer
        self.registers: Final = registers
        self.init_data: Final = init_data
        self._quoting = FairTurns("the TD quote device")
        self._log_turns = Turns("the event log") if registers is None else registers.turns
        self._quote_thread = DeviceThread("TD quote device")
        self._log_thread = DeviceThread("event log reader")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`quote` and `cc_eventlog`, which is null where no log explains the registers.

        Raises:
            InvalidInputError: more than 64 bytes of report data.
            PlatformError: the device failed, or gave something else than was asked for.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        bound = padded_report_data(report_data, TOO_LONG)
        # Callers wait for the device first, so that a measurement waits for one quote at most.
        async with self._quoting.held(deadline), self._log_turns.held(deadline):
            taken = await self._quote_thread.run(
                lambda steps: self._quotes.quote(bound, steps, deadline), deadline
            )
            own = await self._log_thread.run(self._gatherer.read_own, deadline)
        quote = _verified(taken, bound)
        event_log = await self._log_thread.run(
            lambda steps: self._gatherer.gather(own, quote.registers, HashAlgorithm.SHA384, steps),
            deadline,
        )
        return {
            "cc_eventlog": None if event_log is None else encode_base64(event_log),
            "quote": encode_base64(taken.content),
        }


def _verified(taken: TakenQuote, report_data: bytes) -> TdQuote:
    try:
        quote = TdQuote.decode(taken.content)
    except DecodeError as error:
        raise PlatformError(f"{taken.source}: read: EBADMSG ({error})") from error
    if quote.report_data != report_data:
        raise PlatformError(f"{taken.source}: read: EBADMSG (the quote binds other report data)")
    return quote


def open_tdx(hints: TeeHints) -> TdxAttester:
    """The attester of this TD; looks at names, opens no device.

    Raises:
        PlatformError: what this kernel has cannot be told.
    """
    kernel = KERNEL if hints.kernel is None else hints.kernel
    tsm.remove_leftovers(hints.at(tsm.REPORTS), kernel)
    device = _find_device(hints, kernel)
    sysfs = TsmRegisters(hints.at(tsm_mr.MEASUREMENTS), kernel)
    has_sysfs = sysfs.is_there(Steps())
    thread = DeviceThread("TD registers")

    def read_config_id(steps: Steps) -> bytes:
        if has_sysfs:
            return sysfs.read("mrconfigid", steps)
        return device.report(bytes(REPORT_DATA_BYTES), steps).config_id

    access: RegisterAccess | None = None
    if has_sysfs:
        access = SysfsRegisters(sysfs)
    elif hints.quote is QuoteChoice.IOCTL or device.path != hints.at(TDX_NODES[0]):
        access = IoctlRegisters(device)
    own_path = hints.event_log_path or hints.at(f"{DIRECTORY}/{LOG_NAME}")
    return TdxAttester(
        Quotes(_sources(hints, device, kernel)),
        LogGatherer(hints.at(FIRMWARE_LOG), own_path, kernel),
        registers=None if access is None else TdxRegisters(access, thread),
        init_data=TdxInitData(read_config_id, thread),
    )


def _find_device(hints: TeeHints, kernel: KernelCalls) -> TdxDevice:
    """The first node that exists, else the mainline one, which then is missed where it is used."""
    nodes = tuple(hints.at(node) for node in TDX_NODES)
    return TdxDevice(find_node(nodes, kernel, Steps()) or nodes[0], kernel)


def _sources(hints: TeeHints, device: TdxDevice, kernel: KernelCalls) -> tuple[QuoteSource, ...]:
    address = None if hints.quoting_service is None else parse_address(hints.quoting_service)
    configfs = ConfigfsQuotes(TsmReports(hints.at(tsm.REPORTS), PROVIDER, kernel))
    vsock = VsockQuotes(device, address, hints.at(CONFIG_FILE), kernel)
    ioctl = IoctlQuotes(device)
    if hints.quote is QuoteChoice.AUTO:
        return (configfs, vsock, ioctl)
    chosen: tuple[QuoteSource, ...] = (configfs, vsock, ioctl)
    return tuple(source for source in chosen if source.name == hints.quote.value)
