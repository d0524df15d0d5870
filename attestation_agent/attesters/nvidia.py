"""The attester of this guest's NVIDIA GPUs.

Detection looks at the driver's directory in sysfs, which opens nothing; only where a GPU is bound
to the driver the library is loaded, and asked whether confidential computing is on.

Source: docs/spec/attesters.md 1.4 and 14.1.
"""

import asyncio
import errno
import logging
import re
from typing import Final

from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware.calls import KernelCalls
from attestation_agent.hardware.device import NVIDIA_DRIVER
from attestation_agent.hardware.device_thread import DeviceThread, run_at_start
from attestation_agent.hardware.gpu_calls import GpuAttestation, GpuCalls, GpuSurvey
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.nvml import Nvml
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.nvidia import (
    ARCHITECTURES,
    NONCE_BYTES,
    GpuReport,
    entry_of,
    verify_chain,
)
from attestation_agent.turn import FairTurns
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError, UnsupportedError, first_failure
from guest.initdata import fit
from guest.tee import Tee

log = logging.getLogger(__name__)

SWITCH_DRIVER: Final = "/sys/bus/pci/drivers/nvidia-nvswitch"
SWITCH_LIBRARY: Final = "libnvidia-nscq.so.2"

SURVEY_SECONDS: Final = 60.0
"""Most seconds that the library takes at start: without a daemon it wakes every GPU."""

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)
_FUNCTION: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
"""Name of a PCI function, as a driver's directory lists those that are bound to it."""


class NvidiaAttester:
    """Reports of all GPUs that were there at start; one that is missing fails the call."""

    tee: Final = Tee.NVIDIA
    registers: Final = None
    init_data: Final = None

    def __init__(self, gpus: GpuCalls, uuids: tuple[str, ...]) -> None:
        """Ask nothing yet.

        Args:
            gpus: the library.
            uuids: of the GPUs, none twice.
        """
        self._gpus = gpus
        self._threads = {uuid: DeviceThread(f"NVIDIA {uuid}") for uuid in uuids}
        self._turns = FairTurns("the NVIDIA GPUs")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`device_evidence_list`, a member for each GPU.

        Args:
            report_data: the first 32 bytes, padded with zeros, are the nonce.
            deadline: when all GPUs must have answered.

        Raises:
            PlatformError: a GPU is no more, fails, or signs something else.
            DeadlineError: it takes longer than there is time.
            LimitError: too many calls of this connection wait already.
        """
        nonce = fit(report_data, NONCE_BYTES)
        async with self._turns.held(deadline):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._entry(uuid, nonce, deadline), name=uuid)
                        for uuid in self._threads
                    ]
            except BaseExceptionGroup as failures:
                first = first_failure(failures)
                raise first from first.__cause__
        return {"device_evidence_list": [task.result() for task in tasks]}

    async def _entry(self, uuid: str, nonce: bytes, deadline: Deadline) -> dict[str, str]:
        found = await self._threads[uuid].run(
            lambda steps: self._gpus.attest(uuid, nonce, steps), deadline
        )
        return _verified(uuid, nonce, found)


def _verified(uuid: str, nonce: bytes, found: GpuAttestation) -> dict[str, str]:
    architecture = ARCHITECTURES.get(found.architecture)
    if architecture is None:
        text = f"architecture {found.architecture} is none that verifiers know"
        raise PlatformError(f"{uuid}: nvmlDeviceGetArchitecture: EOPNOTSUPP ({text})")
    try:
        report = GpuReport.decode(found.report)
        verify_chain(found.certificates)
    except DecodeError as error:
        raise PlatformError(f"{uuid}: attestation report: EBADMSG ({error})") from error
    if report.nonce != nonce:
        raise PlatformError(f"{uuid}: attestation report: EBADMSG (it binds another nonce)")
    return entry_of(architecture, found.report, found.certificates)


def has_nvidia(hints: TeeHints) -> bool:
    """Whether GPUs are bound to the driver and confidential computing is on.

    Raises:
        PlatformError: that cannot be told.
    """
    if not hints.nvidia or not _bound(hints, NVIDIA_DRIVER):
        return False
    try:
        survey = _survey(hints)
    except PlatformError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        # The extra `nvidia` was left out of this image, which is its owner's word and measured.
        log.warning("NVIDIA GPUs are not attested", extra={"error": str(error)})
        return False
    if survey.is_confidential:
        return True
    log.info("NVIDIA GPUs are not attested: confidential computing is off")
    return False


def open_nvidia(hints: TeeHints) -> NvidiaAttester:
    """The attester of the GPUs that there are now.

    Raises:
        PlatformError: the library fails, or lists fewer GPUs than the driver has.
        UnsupportedError: there are NVSwitches, whose evidence we cannot collect.
    """
    switches = _bound(hints, SWITCH_DRIVER)
    if switches:
        raise UnsupportedError(
            f"NVSwitch {switches[0]}: its evidence needs {SWITCH_LIBRARY}, which is not supported"
        )
    uuids = _survey(hints).uuids
    functions = _bound(hints, NVIDIA_DRIVER)
    if len(set(uuids)) != len(uuids) or len(uuids) < max(len(functions), 1):
        text = f"{len(set(uuids))} GPUs are listed, the driver has {len(functions)}"
        raise PlatformError(f"{hints.at(NVIDIA_DRIVER)}: nvmlDeviceGetCount: ENODEV ({text})")
    return NvidiaAttester(_gpus(hints), uuids)


def _gpus(hints: TeeHints) -> GpuCalls:
    return Nvml() if hints.gpus is None else hints.gpus


def _survey(hints: TeeHints) -> GpuSurvey:
    return run_at_start("NVIDIA library", _gpus(hints).survey, SURVEY_SECONDS)


def _bound(hints: TeeHints, driver: str) -> tuple[str, ...]:
    """Names of the PCI functions that a driver has; none where there is no such driver."""
    kernel: KernelCalls = KERNEL if hints.kernel is None else hints.kernel
    path = hints.at(driver)
    try:
        with Steps().at(path, "list"):
            names = kernel.list_names(path)
    except PlatformError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _ABSENT:
            return ()
        raise
    return tuple(name for name in names if _FUNCTION.fullmatch(name))
