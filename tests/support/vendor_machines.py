"""The machines of the vectors of SNP, SGX, CSV and of Hygon's accelerators.

Each gives what its vector says that the hardware gave.
"""

from pathlib import Path
from typing import Any

from attestation_agent.attesters.base import TeeHints
from attestation_agent.eventlog.files import DIRECTORY, LOG_NAME
from guest_simulator.hygon.csv import CsvGuest
from support.hygon_world import CsvWorld, DcuWorld
from support.sgx_world import SgxWorld
from support.snp_world import SnpWorld

Vector = dict[str, Any]


def snp_machine(root: Path, vector: Vector) -> TeeHints:
    """An SNP guest with the vector's report and certificate table."""
    report, table = bytes.fromhex(vector["report"]), bytes.fromhex(vector["table"])
    return SnpWorld(root=root, table=table, transform=lambda _: report).hints()


def sgx_machine(root: Path, vector: Vector) -> TeeHints:
    """An enclave with the vector's quote, followed by zeros as Occlum's buffer has them."""
    world = SgxWorld(root=root)
    world.enclave.transform = lambda _: bytes.fromhex(vector["quote"]) + bytes(16)
    return world.hints()


def csv_machine(root: Path, vector: Vector) -> TeeHints:
    """A CSV guest with the vector's registers and log."""
    device = CsvGuest(has_registers=vector["has_registers"])
    device.registers[4] = bytes.fromhex(vector["rtmr4"])
    if vector["aael"] is not None:
        log = root / DIRECTORY.lstrip("/") / LOG_NAME
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(bytes.fromhex(vector["aael"]))
    return CsvWorld(root=root, device=device).hints()


def dcu_machine(root: Path, vector: Vector) -> TeeHints:
    """A machine with the vector's accelerators."""
    return DcuWorld(root=root, ids=tuple(vector["ids"])).hints()
