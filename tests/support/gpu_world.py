"""Simulated GPUs behind the product's contract, and in the place of NVIDIA's library."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestation_agent.attesters.base import TeeHints
from attestation_agent.hardware.gpu_calls import GpuAttestation, GpuSurvey, Progress
from guest.errors import PlatformError
from guest_simulator.devices.gpu import Gpu, NvmlLibrary


class SimulatedGpus:
    """`GpuCalls` on simulated GPUs.

    Attributes:
        gpus: those that there are.
        is_confidential: what the survey says.
        block: where set, a GPU waits for it before it answers.
        begun: set when a GPU was asked.
        surveys: how often it was asked what there is.
    """

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = list(gpus)
        self.is_confidential = True
        self.block: threading.Event | None = None
        self.begun = threading.Event()
        self.surveys = 0

    def survey(self, steps: Progress) -> GpuSurvey:
        self.surveys += 1
        uuids = tuple(gpu.uuid for gpu in self.gpus) if self.is_confidential else ()
        return GpuSurvey(is_confidential=self.is_confidential, uuids=uuids)

    def attest(self, uuid: str, nonce: bytes, steps: Progress) -> GpuAttestation:
        steps.current = f"gpu: {uuid}: attest"
        self.begun.set()
        if self.block is not None:
            self.block.wait()
        gpu = next((gpu for gpu in self.gpus if gpu.uuid == uuid and not gpu.is_lost), None)
        if gpu is None:
            raise PlatformError(f"{steps.current}: ENODEV (it is no more)")
        return GpuAttestation(
            architecture=gpu.architecture, report=gpu.report(nonce), certificates=gpu.chain
        )


def gpu_machine(root: Path, gpus: SimulatedGpus) -> TeeHints:
    """A machine whose driver has the GPUs."""
    driver = root / "sys/bus/pci/drivers/nvidia"
    driver.mkdir(parents=True)
    (driver / "bind").touch()
    for number in range(len(gpus.gpus)):
        (driver / f"0000:0{number + 1}:00.0").touch()
    return TeeHints(root=str(root), gpus=gpus)


@contextmanager
def library_in_place(library: NvmlLibrary) -> Iterator[None]:
    """NVIDIA's own binding finds the simulated library loaded already."""
    import pynvml

    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        yield
    finally:
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()
