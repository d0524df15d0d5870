"""Evidence of all GPUs or of none, and a detection that asks for nothing it need not."""

import asyncio
import errno
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from attestation_agent.attesters import detect_devices, nvidia
from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.nvidia import open_nvidia
from attestation_agent.attesters.sample import SampleAttester
from attestation_agent.collector import EvidenceCollector
from attestation_agent.component import AttestationAgent
from attestation_agent.hardware.device import NVIDIA_DRIVER
from guest.deadline import Deadline
from guest.errors import DeadlineError, PlatformError, UnsupportedError
from guest.tee import Tee
from guest.wire import decode_base64
from guest_simulator.devices.bluefield import BlueField
from guest_simulator.devices.gpu import Gpu, NvmlLibrary
from guest_simulator.machine import Machine
from guest_simulator.tdx.guest import Fault
from support.agents import NoServer, config_of
from support.gpu_world import SimulatedGpus, gpu_machine, library_in_place
from support.source_tree import ROOT

Entries = dict[str, list[dict[str, str]]]


def soon() -> Deadline:
    return Deadline.after(30)


def two() -> SimulatedGpus:
    return SimulatedGpus(Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2", architecture=10))


@pytest.mark.spec("attesters", 46)
async def test_the_nonce_is_the_first_32_bytes_and_a_missing_gpu_fails(short_tmp: Path) -> None:
    gpus = two()
    attester = open_nvidia(gpu_machine(short_tmp, gpus))
    data = bytes(range(48))
    evidence = msgspec.convert(await attester.evidence(data, soon()), Entries)
    entries = evidence["device_evidence_list"]
    assert [(entry["arch"], entry["uuid"]) for entry in entries] == [
        ("HOPPER", "unknown"),
        ("BLACKWELL", "unknown"),
    ]
    for gpu, entry in zip(gpus.gpus, entries, strict=True):
        assert set(entry) == {"arch", "uuid", "evidence", "certificate"}
        assert gpu.nonces == [data[:32]]
        assert decode_base64(entry["evidence"])[4:36] == data[:32]
        assert decode_base64(entry["certificate"]) == gpu.chain
    await attester.evidence(b"\1", soon())
    assert gpus.gpus[0].nonces[-1] == b"\1" + bytes(31)
    gpus.gpus.pop()
    with pytest.raises(PlatformError, match=r"GPU-2: .*ENODEV"):
        await attester.evidence(data, soon())


async def test_gpus_are_asked_at_the_same_time(short_tmp: Path) -> None:
    gpus = two()
    attester = open_nvidia(gpu_machine(short_tmp, gpus))
    both = threading.Barrier(2)

    def meet(report: bytes) -> bytes:
        both.wait(20)
        return report

    for gpu in gpus.gpus:
        gpu.change = meet
    evidence = msgspec.convert(await attester.evidence(b"", soon()), Entries)
    assert len(evidence["device_evidence_list"]) == 2


async def test_a_gpu_that_disappears_fails_the_call_of_all_devices(short_tmp: Path) -> None:
    gpus = two()
    hints = gpu_machine(short_tmp, gpus)
    devices = detect_devices(TeeHints(root=hints.root, gpus=gpus, sample_device=True))
    collector = EvidenceCollector(SampleAttester(), devices)
    assert collector.devices() == (Tee.NVIDIA, Tee.SAMPLE_DEVICE)
    assert await collector.additional_evidence(b"", soon())
    gpus.gpus[1].is_lost = True
    with pytest.raises(PlatformError, match=r"GPU-2: .*ENODEV"):
        await collector.additional_evidence(b"", soon())


async def test_a_gpu_that_hangs_is_named_and_the_loop_goes_on(short_tmp: Path) -> None:
    gpus = two()
    gpus.block = threading.Event()
    attester = open_nvidia(gpu_machine(short_tmp, gpus))
    with pytest.raises(PlatformError, match=r"gpu: GPU-[12]: attest: ETIMEDOUT"):
        await attester.evidence(b"", Deadline.after(0.3))
    with pytest.raises(DeadlineError):
        await attester.evidence(b"", Deadline.after(0.1))
    gpus.block.set()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attester.evidence(bytes((n,)), soon())) for n in range(3)]
    assert all(task.result() for task in tasks)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (b"", "ends at byte 0"),
        (bytes(230), "message 0000"),
        (Gpu(uuid="x").report(b"\2" * 32), "it binds another nonce"),
    ],
)
async def test_a_report_that_is_none_or_anothers_is_never_evidence(
    short_tmp: Path, report: bytes, message: str
) -> None:
    gpus = two()
    gpus.gpus[1].change = lambda _: report
    with pytest.raises(PlatformError, match=rf"GPU-2: attestation report: EBADMSG .*{message}"):
        await open_nvidia(gpu_machine(short_tmp, gpus)).evidence(b"\1", soon())


async def test_an_architecture_without_a_name_and_a_chain_that_is_none_fail(
    short_tmp: Path,
) -> None:
    gpus = two()
    attester = open_nvidia(gpu_machine(short_tmp, gpus))
    gpus.gpus[0].chain = b"\0"
    with pytest.raises(PlatformError, match=r"GPU-1: .*EBADMSG .*not PEM"):
        await attester.evidence(b"", soon())
    gpus.gpus[0].architecture = 8
    with pytest.raises(PlatformError, match=r"GPU-1: .*EOPNOTSUPP .*architecture 8"):
        await attester.evidence(b"", soon())


def test_without_a_gpu_at_the_driver_the_library_is_not_asked(short_tmp: Path) -> None:
    gpus = two()
    assert detect_devices(TeeHints(root=str(short_tmp), gpus=gpus)) == ()
    driver = short_tmp / NVIDIA_DRIVER.lstrip("/")
    driver.mkdir(parents=True)
    (driver / "bind").touch()
    assert detect_devices(TeeHints(root=str(short_tmp), gpus=gpus)) == ()
    (driver / "0000:01:00.0").touch()
    assert detect_devices(TeeHints(root=str(short_tmp), gpus=gpus, nvidia=False)) == ()
    assert gpus.surveys == 0


def test_gpus_without_confidential_computing_are_no_devices(short_tmp: Path) -> None:
    gpus = two()
    hints = gpu_machine(short_tmp, gpus)
    gpus.is_confidential = False
    assert detect_devices(hints) == ()


def test_a_guest_without_the_binding_attests_no_gpu_and_says_what_is_missing(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hints = TeeHints(root=gpu_machine(short_tmp, two()).root)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect_devices(hints) == ()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "nvidia-ml-py" in str(record.__dict__["error"])


def test_a_guest_without_the_drivers_library_does_not_start(short_tmp: Path) -> None:
    hints = TeeHints(root=gpu_machine(short_tmp, two()).root)
    with (
        library_in_place(NvmlLibrary(gpus=[], failures={"nvmlInitWithFlags": 12})),
        pytest.raises(PlatformError, match=r"libnvidia-ml.so.1: nvmlInit: ENOENT \(no libnvidia"),
    ):
        detect_devices(hints)


def test_what_the_driver_has_and_the_library_does_not_list_is_an_error(short_tmp: Path) -> None:
    gpus = two()
    hints = gpu_machine(short_tmp, gpus)
    gpus.gpus.pop()
    with pytest.raises(PlatformError, match=r"ENODEV .1 GPUs are listed, the driver has 2"):
        detect_devices(hints)


def test_a_driver_that_cannot_be_looked_at_is_an_error_not_an_absence(short_tmp: Path) -> None:
    kernel = Machine(root=str(short_tmp))
    hints = gpu_machine(short_tmp, two())
    hints = TeeHints(root=hints.root, gpus=hints.gpus, kernel=kernel)
    kernel.faults.append(Fault(path="/nvidia", call="list", error=errno.EIO))
    with pytest.raises(PlatformError, match=r"drivers/nvidia: list: EIO"):
        detect_devices(hints)


def test_switches_are_not_left_out_in_silence(short_tmp: Path) -> None:
    hints = gpu_machine(short_tmp, two())
    switches = short_tmp / nvidia.SWITCH_DRIVER.lstrip("/")
    switches.mkdir(parents=True)
    (switches / "0000:81:00.0").touch()
    with pytest.raises(UnsupportedError, match=r"libnvidia-nscq"):
        detect_devices(hints)


def test_a_survey_that_hangs_is_named(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "SURVEY_SECONDS", 0.1)
    release = threading.Event()

    class Hanging(SimulatedGpus):
        def survey(self, steps: object) -> object:  # type: ignore[override]  # never returns
            steps.current = "gpu: survey"  # type: ignore[attr-defined]  # as `Progress`
            release.wait()
            raise AssertionError("nobody waits")

    with pytest.raises(PlatformError, match=r"gpu: survey: ETIMEDOUT"):
        detect_devices(gpu_machine(short_tmp, Hanging(Gpu(uuid="GPU-1"))))
    release.set()


DETECT = """
import sys
from attestation_agent.attesters import detect_devices
from attestation_agent.attesters.base import TeeHints
assert detect_devices(TeeHints(root=sys.argv[1], nvidia_dpu=True)) == ()
print(sorted({"pynvml", "attestation_agent.attesters.nvidia"} & set(sys.modules)))
"""


def test_detection_without_a_driver_imports_no_vendor_library(short_tmp: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", DETECT, str(short_tmp)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


async def test_the_configuration_reaches_detection(short_tmp: Path) -> None:
    gpus = two()
    hints = gpu_machine(short_tmp, gpus)
    BlueField().install(short_tmp)

    def devices(**attester: bool) -> tuple[Tee, ...]:
        config = config_of(attester=attester)
        agent = AttestationAgent(config, lambda _: NoServer(), hints=hints)
        return agent._agent.additional_tees()

    assert devices() == (Tee.NVIDIA,)
    assert devices(nvidia=False) == ()
    assert devices(nvidia_dpu=True) == (Tee.NVIDIA, Tee.NVIDIA_DPU)
