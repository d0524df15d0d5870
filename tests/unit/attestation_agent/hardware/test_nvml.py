"""NVIDIA's own binding over a simulated library: what it gives, and what is missing."""

import sys

import pytest

from attestation_agent.hardware.nvml import Nvml
from attestation_agent.hardware.steps import Steps
from guest.errors import PlatformError
from guest_simulator.devices.gpu import Gpu, NvmlLibrary
from support.gpu_world import library_in_place

NONCE = bytes(range(32))


def make() -> NvmlLibrary:
    return NvmlLibrary(gpus=[Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2", architecture=10)])


def test_all_gpus_are_listed_and_each_signs_the_nonce() -> None:
    library = make()
    with library_in_place(library):
        survey = Nvml().survey(Steps())
        assert (survey.is_confidential, survey.uuids) == (True, ("GPU-1", "GPU-2"))
        found = Nvml().attest("GPU-2", NONCE, Steps())
    assert found.architecture == 10
    assert found.report[4:36] == NONCE
    assert len(found.report) == 230
    assert found.certificates == library.gpus[1].chain
    assert library.gpus[0].nonces == []
    assert library.sessions == 0


@pytest.mark.parametrize("feature", [0, 2])
def test_without_confidential_computing_no_gpu_is_asked(feature: int) -> None:
    library = make()
    library.feature = feature
    with library_in_place(library):
        assert not Nvml().survey(Steps()).is_confidential
        library.feature, library.failures = 1, {"nvmlSystemGetConfComputeState": 3}
        assert not Nvml().survey(Steps()).is_confidential
    assert not any(name.startswith("nvmlDevice") for name in library.called)


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("nvmlInitWithFlags", 9, "nvmlInit: ENXIO"),
        ("nvmlInitWithFlags", 4, "nvmlInit: EACCES"),
        ("nvmlSystemGetConfComputeState", 999, "nvmlSystemGetConfComputeState: EIO"),
        ("nvmlDeviceGetCount_v2", 15, "nvmlDeviceGetUUID: ENODEV"),
    ],
)
def test_a_survey_that_fails_names_library_step_and_errno(
    function: str, status: int, message: str
) -> None:
    library = make()
    library.failures = {function: status}
    with (
        library_in_place(library),
        pytest.raises(PlatformError, match=rf"^libnvidia-ml.so.1: {message} .*NVML {status}"),
    ):
        Nvml().survey(Steps())
    assert library.sessions == 0


@pytest.mark.parametrize(
    ("function", "status", "name"),
    [
        ("nvmlDeviceGetArchitecture", 2, "EINVAL"),
        ("nvmlDeviceGetConfComputeGpuAttestationReport", 19, "EBUSY"),
        ("nvmlDeviceGetConfComputeGpuAttestationReport", 10, "ETIMEDOUT"),
        ("nvmlDeviceGetConfComputeGpuAttestationReport", 13, "ENOSYS"),
        ("nvmlDeviceGetConfComputeGpuCertificate", 15, "ENODEV"),
    ],
)
def test_a_gpu_that_fails_is_named(function: str, status: int, name: str) -> None:
    library = make()
    library.failures = {function: status}
    with (
        library_in_place(library),
        pytest.raises(PlatformError, match=rf"^libnvidia-ml.so.1: GPU-1: {function}: {name} "),
    ):
        Nvml().attest("GPU-1", NONCE, Steps())
    assert library.sessions == 0


def test_a_gpu_that_is_no_more_is_named() -> None:
    library = make()
    with library_in_place(library):
        with pytest.raises(PlatformError, match=r"GPU-9: nvmlDeviceGetHandleByUUID: ENODEV"):
            Nvml().attest("GPU-9", NONCE, Steps())
        library.gpus[0].is_lost = True
        with pytest.raises(PlatformError, match=r"GPU-1: .*AttestationReport: ENODEV"):
            Nvml().attest("GPU-1", NONCE, Steps())


@pytest.mark.parametrize("length", [0, 8193])
def test_a_report_of_no_or_too_many_bytes_is_refused(length: int) -> None:
    library = make()
    library.gpus[0].change = lambda _: bytes(length)
    with (
        library_in_place(library),
        pytest.raises(PlatformError, match=rf"AttestationReport: EBADMSG .{length} bytes"),
    ):
        Nvml().attest("GPU-1", NONCE, Steps())


@pytest.mark.parametrize("length", [0, 5121])
def test_a_chain_of_no_or_too_many_bytes_is_refused(length: int) -> None:
    library = make()
    library.gpus[0].chain = bytes(length)
    with (
        library_in_place(library),
        pytest.raises(PlatformError, match=rf"GpuCertificate: EBADMSG .{length} bytes"),
    ):
        Nvml().attest("GPU-1", NONCE, Steps())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(PlatformError, match=r"pynvml: import: ENOENT .*nvidia-ml-py"):
        Nvml().survey(Steps())


def test_a_missing_library_is_named() -> None:
    import pynvml

    library = make()
    with library_in_place(library):
        pynvml.nvmlLib = None
        try:
            Nvml().survey(Steps())
        except PlatformError as error:
            # A machine with an NVIDIA driver gets further, and none fails otherwise.
            assert "libnvidia-ml.so.1: nvmlInit: E" in str(error)  # noqa: PT017
