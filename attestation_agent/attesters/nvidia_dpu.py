"""The attester of an NVIDIA BlueField-3 DPU; off unless the configuration wants it.

Source: docs/spec/attesters.md 1.2, 1.4 and 14.2.
"""

from typing import Final

from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware import bluefield
from attestation_agent.hardware.bluefield import BlueField
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.kernel import KERNEL
from attestation_agent.hardware.steps import Steps
from attestation_agent.reports.nvidia_dpu import REPORT_DATA_BYTES, evidence_of
from guest.deadline import Deadline
from guest.tee import Tee


class NvidiaDpuAttester:
    """Signatures by the DPU's alias key."""

    tee: Final = Tee.NVIDIA_DPU
    registers: Final = None
    init_data: Final = None

    def __init__(self, dpu: BlueField) -> None:
        """Read nothing."""
        self._dpu = dpu
        self._thread = DeviceThread("BlueField DPU")

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        """`version` and `devices`; binds the report data as it is, of a longer one 64 bytes.

        Raises:
            PlatformError: the DPU is no more, or its certificates and key are not as they must be.
            DeadlineError: it takes longer than there is time.
            LimitError: too much waits for the device already.
        """
        # Compat: upstream signs the data padded to 64 bytes, which no verifier accepts.
        bound = report_data[:REPORT_DATA_BYTES]
        return await self._thread.run(lambda steps: self._signed(bound, steps), deadline)

    def _signed(self, bound: bytes, steps: Steps) -> object:
        alias = self._dpu.certificate("alias_cert", steps)
        device_id = self._dpu.certificate("device_id_cert", steps)
        return evidence_of(alias, device_id, self._dpu.sign(bound, alias, steps))


def has_nvidia_dpu(hints: TeeHints) -> bool:
    """Whether a DPU is wanted and there.

    Raises:
        PlatformError: that cannot be told.
    """
    if not hints.nvidia_dpu:
        return False
    kernel = KERNEL if hints.kernel is None else hints.kernel
    return bluefield.is_there(hints.at(bluefield.PCI_DEVICES), kernel)


def open_nvidia_dpu(hints: TeeHints) -> NvidiaDpuAttester:
    """The attester of the DPU; reads nothing."""
    kernel = KERNEL if hints.kernel is None else hints.kernel
    dpu = BlueField(hints.at(bluefield.CERTIFICATES), hints.at(bluefield.ALIAS_KEY), kernel)
    return NvidiaDpuAttester(dpu)
