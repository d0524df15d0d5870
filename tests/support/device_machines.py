"""Machines whose hardware gives what a vector says: cca, se, nvidia and nvidia-dpu."""

from pathlib import Path
from typing import Any

from attestation_agent.attesters.base import TeeHints
from guest_simulator.devices import bluefield, ultravisor
from guest_simulator.devices.gpu import Gpu
from guest_simulator.devices.ultravisor import Ultravisor
from guest_simulator.machine import Machine
from guest_simulator.tdx.tsm import TsmReports
from support.gpu_world import SimulatedGpus, gpu_machine

Vector = dict[str, Any]


def cca_machine(root: Path, vector: Vector) -> TeeHints:
    """A realm that gives the vector's token."""
    token = bytes.fromhex(vector["token"])
    reports = TsmReports(lambda _: token, provider="arm_cca_guest")
    kernel = Machine(root=str(root), reports=reports)
    return TeeHints(root=str(root), kernel=kernel, machine="aarch64")


def se_machine(root: Path, vector: Vector) -> TeeHints:
    """A guest whose ultravisor gives the vector's measurement."""
    device = Ultravisor(
        uid=bytes.fromhex(vector["config_uid"]),
        additional=bytes.fromhex(vector["additional_data"]),
        fixed=bytes.fromhex(vector["measurement"]),
    )
    kernel = Machine(root=str(root), devices={ultravisor.DEVICE: device})
    return TeeHints(root=str(root), kernel=kernel, machine="s390x")


def nvidia_machine(root: Path, vector: Vector) -> TeeHints:
    """GPUs that give the vector's reports."""
    return gpu_machine(root, SimulatedGpus(*(_gpu_of(found) for found in vector["gpus"])))


def _gpu_of(found: Vector) -> Gpu:
    report = bytes.fromhex(found["report"])
    gpu = Gpu(uuid=found["uuid"], architecture=found["architecture"], change=lambda _: report)
    gpu.chain = found["certificates"].encode("ascii")
    return gpu


def dpu_machine(root: Path, vector: Vector) -> TeeHints:
    """A DPU with the vector's key and certificates."""
    files = {
        f"{bluefield.CERTIFICATES}/alias_cert": vector["alias_cert"],
        f"{bluefield.CERTIFICATES}/device_id_cert": vector["device_id_cert"],
        bluefield.ALIAS_KEY: vector["alias_key"],
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes.fromhex(content))
    return TeeHints(root=str(root), nvidia_dpu=True)
