"""Every attester of the tables gives the evidence of its vectors, and keeps to the contract."""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from attestation_agent.attesters import ATTESTERS, DEVICES, AttesterEntry
from attestation_agent.attesters.base import TeeHints
from attestation_agent.eventlog.files import DIRECTORY, LOG_NAME
from guest.deadline import Deadline
from guest.tee import Tee
from support import device_machines, tpm_machines, vendor_machines
from support.tdx_world import hints_of, make_guest

Vector = dict[str, Any]


def _bare_machine(root: Path, vector: Vector) -> TeeHints:
    return TeeHints(root=str(root))


def _tdx_machine(root: Path, vector: Vector) -> TeeHints:
    """A TDX guest whose hardware gives the vector's quote and logs."""
    guest = make_guest(root, transform=lambda _: bytes.fromhex(vector["quote"]))
    if vector["ccel"] is not None:
        guest.ccel = bytes.fromhex(vector["ccel"]).ljust(65536, b"\xff")
    if vector["aael"] is not None:
        log = root / DIRECTORY.lstrip("/") / LOG_NAME
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(bytes.fromhex(vector["aael"]))
    return hints_of(guest)


MACHINES: Final[dict[Tee, Callable[[Path, Vector], TeeHints]]] = {
    Tee.TDX: _tdx_machine,
    Tee.SGX: vendor_machines.sgx_machine,
    Tee.SNP: vendor_machines.snp_machine,
    Tee.CSV: vendor_machines.csv_machine,
    Tee.HYGON_DCU: vendor_machines.dcu_machine,
    Tee.CCA: device_machines.cca_machine,
    Tee.SE: device_machines.se_machine,
    Tee.NVIDIA: device_machines.nvidia_machine,
    Tee.NVIDIA_DPU: device_machines.dpu_machine,
}
"""TEE to the machine of a vector; the others have no hardware."""


@asynccontextmanager
async def _hints(tee: Tee, root: Path, vector: Vector) -> AsyncIterator[TeeHints]:
    if tee in tpm_machines.MACHINES:
        async with tpm_machines.MACHINES[tee](root, vector) as hints:
            yield hints
    else:
        yield MACHINES.get(tee, _bare_machine)(root, vector)


BUILT = [entry for entry in (*ATTESTERS, *DEVICES) if entry.open is not None]


def test_the_tables_name_each_tee_once_and_end_in_the_sample() -> None:
    for table in (ATTESTERS, DEVICES):
        assert len({entry.tee for entry in table}) == len(table)
    both = {entry.tee for entry in ATTESTERS} & {entry.tee for entry in DEVICES}
    assert both == {Tee.TPM}  # a device where the guest has another TEE
    assert ATTESTERS[-1].tee is Tee.SAMPLE


@pytest.mark.parametrize("entry", BUILT, ids=lambda entry: entry.tee.value)
async def test_an_attester_gives_the_evidence_of_its_vectors(
    entry: AttesterEntry, vectors: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = json.loads((vectors / "attesters" / f"{entry.tee}.json").read_text())
    assert entry.open is not None
    for number, vector in enumerate(folder["vectors"]):
        async with _hints(entry.tee, short_tmp / str(number), vector) as hints:
            attester = entry.open(hints)
            assert attester.tee is entry.tee
            if "nonce" in vector:  # of the attester's own, in the vector's evidence
                nonce = bytes.fromhex(vector["nonce"])
                monkeypatch.setattr(secrets, "token_bytes", lambda _, nonce=nonce: nonce)
            data = bytes.fromhex(vector["report_data"])
            evidence = await attester.evidence(data, Deadline.after(10))
            assert json.loads(msgspec.json.encode(evidence)) == vector["evidence"]
