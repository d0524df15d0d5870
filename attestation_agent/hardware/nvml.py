"""NVIDIA's management library, as far as attestation needs it: the one door to `pynvml`.

The library is initialised for each piece of work and given back after it.

Source: docs/spec/attesters.md 14.1.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from attestation_agent.hardware.gpu_calls import GpuAttestation, GpuSurvey, Progress
from attestation_agent.hardware.steps import Steps
from guest.errors import PlatformError

LIBRARY: Final = "libnvidia-ml.so.1"

IS_ON: Final = 1
"""`ccFeature` of a system whose GPUs are in confidential computing mode."""

MAX_REPORT_BYTES: Final = 8192
MAX_CHAIN_BYTES: Final = 5120

NOT_SUPPORTED: Final = 3
LIBRARY_NOT_FOUND: Final = 12

_ERRNO: Final = {
    2: errno.EINVAL,
    NOT_SUPPORTED: errno.EOPNOTSUPP,
    4: errno.EACCES,
    6: errno.ENODEV,
    7: errno.ENOBUFS,
    9: errno.ENXIO,
    10: errno.ETIMEDOUT,
    LIBRARY_NOT_FOUND: errno.ENOENT,
    13: errno.ENOSYS,
    15: errno.ENODEV,
    19: errno.EBUSY,
    20: errno.ENOMEM,
    28: errno.ENODEV,
}
"""NVML's return value to what the kernel would say; all others are EIO."""


class Nvml:
    """`GpuCalls` of this machine."""

    def survey(self, steps: Progress) -> GpuSurvey:
        """See `GpuCalls`; a driver that knows no confidential computing has it off."""
        with _session(steps) as nvml:
            if not _is_confidential(nvml, steps):
                return GpuSurvey(is_confidential=False, uuids=())
            uuids = []
            with _asked(nvml, steps, "nvmlDeviceGetUUID"):
                for index in range(nvml.nvmlDeviceGetCount()):
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    uuids.append(str(nvml.nvmlDeviceGetUUID(handle)))
            return GpuSurvey(is_confidential=True, uuids=tuple(uuids))

    def attest(self, uuid: str, nonce: bytes, steps: Progress) -> GpuAttestation:
        """See `GpuCalls`."""
        with _session(steps) as nvml:
            with _asked(nvml, steps, "nvmlDeviceGetHandleByUUID", uuid):
                handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            with _asked(nvml, steps, "nvmlDeviceGetArchitecture", uuid):
                architecture = int(nvml.nvmlDeviceGetArchitecture(handle))
            step = "nvmlDeviceGetConfComputeGpuAttestationReport"
            with _asked(nvml, steps, step, uuid):
                found = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
            report = _cut(
                bytes(found.attestationReport), found.attestationReportSize, MAX_REPORT_BYTES, steps
            )
            with _asked(nvml, steps, "nvmlDeviceGetConfComputeGpuCertificate", uuid):
                chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
            certificates = _cut(
                bytes(chain.attestationCertChain),
                chain.attestationCertChainSize,
                MAX_CHAIN_BYTES,
                steps,
            )
        return GpuAttestation(architecture=architecture, report=report, certificates=certificates)


def _cut(content: bytes, length: int, most: int, steps: Progress) -> bytes:
    if not 1 <= length <= min(most, len(content)):
        text = f"{length} bytes, expected 1 to {min(most, len(content))}"
        raise PlatformError(f"{steps.current}: EBADMSG ({text})")
    return content[:length]


def _is_confidential(nvml: Any, steps: Progress) -> bool:
    try:
        with _asked(nvml, steps, "nvmlSystemGetConfComputeState"):
            return int(nvml.nvmlSystemGetConfComputeState().ccFeature) == IS_ON
    except PlatformError as error:
        if getattr(error.__cause__, "value", None) == NOT_SUPPORTED:
            return False
        raise


@contextmanager
def _session(steps: Progress) -> Iterator[Any]:
    """The module, initialised."""
    steps.current = "pynvml: import"
    try:
        import pynvml as nvml
    except ImportError as error:
        raise PlatformError(
            "pynvml: import: ENOENT (the Python package nvidia-ml-py is not installed)"
        ) from error
    with _asked(nvml, steps, "nvmlInit"):
        nvml.nvmlInit()
    try:
        yield nvml
    finally:
        with _asked(nvml, Steps(), "nvmlShutdown"):
            nvml.nvmlShutdown()


@contextmanager
def _asked(nvml: Any, steps: Progress, step: str, uuid: str = "") -> Iterator[None]:
    """Name a call; what fails in it becomes a `PlatformError` with library, step and errno."""
    steps.current = f"{LIBRARY}: {uuid}: {step}" if uuid else f"{LIBRARY}: {step}"
    try:
        yield
    except nvml.NVMLError as error:
        number = _ERRNO.get(error.value, errno.EIO)
        text = os.strerror(number) if error.value != LIBRARY_NOT_FOUND else _missing()
        code = errno.errorcode[number]
        raise PlatformError(f"{steps.current}: {code} ({text}; NVML {error.value})") from error
    except ValueError as error:  # what the binding says of bytes that are no text
        raise PlatformError(f"{steps.current}: EBADMSG ({error})") from error


def _missing() -> str:
    return f"no {LIBRARY} where the dynamic loader looks; it belongs to the NVIDIA driver"
