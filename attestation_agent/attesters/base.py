"""What an attester is, and what its detection may look at. Sans-I/O.

Source: docs/spec/attesters.md 1.1 and 1.2.
"""

from enum import StrEnum
from typing import Final, Protocol

import msgspec

from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.gpu_calls import GpuCalls
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import InvalidInputError
from guest.initdata import fit
from guest.proxies import Proxies
from guest.tee import Tee

REPORT_DATA_BYTES: Final = 64


class QuoteChoice(StrEnum):
    """Which source of TD quotes is used."""

    AUTO = "auto"
    CONFIGFS = "configfs"
    VSOCK = "vsock"
    IOCTL = "ioctl"


class TeeHints(msgspec.Struct, frozen=True, kw_only=True):
    """What the root found in the environment, and where the system's files are.

    Attributes:
        root: `/`, or the root of a tree that stands for it.
        machine: as `uname -m` says; the empty string is none of those that matter.
        occlum: `OCCLUM` is set.
        sample_device: `ENABLE_SAMPLE_DEVICE` is set, even if empty.
        tpm_device: `AA_TPM_DEVICE`.
        tpm_ak_handle: `AA_TPM_AK_HANDLE`.
        event_log_path: `AAEL_PATH`, from where evidence reads the event log.
        quote: which source of TD quotes is used; `AUTO` is the first that there is.
        quoting_service: address of the quoting service; None is what the system's file says.
        kernel: whose interfaces the hardware's are; None is this machine's.
        azure_metadata: scheme and host of Azure's metadata service.
        gpus: the GPU library; None is this machine's.
        nvidia: NVIDIA GPUs in confidential computing mode are attested.
        tpm_beside: a TPM beside a TEE is attested too.
        nvidia_dpu: a BlueField DPU is looked for.
        csv_certificates: CSV evidence carries HSK and CEK
            (`CSV_INCLUDE_CERT_CHAIN_IN_ATTESTATION_REPORT` is `true`).
        proxies: for what an attester fetches over HTTP.
    """

    root: str = "/"
    machine: str = ""
    occlum: bool = False
    sample_device: bool = False
    tpm_device: str | None = None
    tpm_ak_handle: str | None = None
    event_log_path: str | None = None
    quote: QuoteChoice = QuoteChoice.AUTO
    quoting_service: str | None = None
    kernel: KernelCalls | None = None
    azure_metadata: str = "http://169.254.169.254"
    gpus: GpuCalls | None = None
    nvidia: bool = True
    tpm_beside: bool = False
    nvidia_dpu: bool = False
    csv_certificates: bool = False
    proxies: Proxies = msgspec.field(default_factory=Proxies)

    def at(self, path: str) -> str:
        """An absolute path of the system, below `root`."""
        return f"{self.root.rstrip('/')}/{path.lstrip('/')}"


def padded_report_data(report_data: bytes, too_long: str) -> bytes:
    """Report data as most hardware binds it: 64 bytes, zeros behind what is shorter.

    Raises:
        InvalidInputError: more than that; says `too_long`.
    """
    if len(report_data) > REPORT_DATA_BYTES:
        raise InvalidInputError(too_long)
    return fit(report_data, REPORT_DATA_BYTES)


class TakesTurns(Protocol):
    """What only one may have at a time, first come first served."""

    async def take(self, deadline: Deadline) -> None:
        """Wait for it; whoever returns from here must give it back.

        Raises:
            DeadlineError: it did not become free in time.
        """
        ...

    def give_back(self) -> None:
        """Let the next one have it."""
        ...


class MeasurementRegisters(Protocol):
    """The runtime measurement registers of a TEE."""

    @property
    def turns(self) -> TakesTurns:
        """Held over every change, and over evidence with the log that explains it."""
        ...

    @property
    def algorithm(self) -> HashAlgorithm:
        """Of the digests that are extended."""
        ...

    def log_index(self, register: int) -> int:
        """The index by which the event log names a requested register.

        Raises:
            InvalidInputError: there is no such register.
        """
        ...

    async def read(self, register: int, deadline: Deadline) -> bytes:
        """The value of the register that a request names."""
        ...

    async def extend(self, register: int, digest: bytes, deadline: Deadline) -> None:
        """Extend it."""
        ...


class InitDataBinder(Protocol):
    """A TEE that ties a guest to its init data."""

    async def bind(self, digest: bytes, deadline: Deadline) -> None:
        """Compare the digest with what the launch bound, or bind it now.

        Args:
            digest: of the init data document, 32 to 64 bytes.
            deadline: when the device must have answered.

        Raises:
            IntegrityError: the guest was launched with other init data.
            InvalidInputError: the TEE takes no digest of that length.
        """
        ...


class Attester(Protocol):
    """What produces evidence about this guest, or about one of its devices."""

    @property
    def tee(self) -> Tee:
        """What it speaks for."""
        ...

    @property
    def registers(self) -> MeasurementRegisters | None:
        """Runtime measurement, where the TEE has it."""
        ...

    @property
    def init_data(self) -> InitDataBinder | None:
        """Binding of init data, where the TEE has it."""
        ...

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """Evidence that binds `report_data`: a value that JSON can express.

        Raises:
            InvalidInputError: the report data is longer than the TEE takes.
            PlatformError: the kernel or the device failed.
            DeadlineError: it takes longer than there is time.
        """
        ...
