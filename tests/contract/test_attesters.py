"""Every attester of the tables gives the evidence of its vectors, and keeps to the contract."""

import json
from pathlib import Path

import msgspec
import pytest

from attestation_agent.attesters import ATTESTERS, DEVICES, AttesterEntry
from attestation_agent.attesters.base import TeeHints
from guest.deadline import Deadline
from guest.tee import Tee

BUILT = [entry for entry in (*ATTESTERS, *DEVICES) if entry.open is not None]


def test_the_tables_name_each_tee_once_and_end_in_the_sample() -> None:
    tees = [entry.tee for entry in (*ATTESTERS, *DEVICES)]
    assert len(set(tees)) == len(tees)
    assert ATTESTERS[-1].tee is Tee.SAMPLE


@pytest.mark.parametrize("entry", BUILT, ids=lambda entry: entry.tee.value)
async def test_an_attester_gives_the_evidence_of_its_vectors(
    entry: AttesterEntry, vectors: Path
) -> None:
    folder = json.loads((vectors / "attesters" / f"{entry.tee}.json").read_text())
    assert entry.open is not None
    attester = entry.open(TeeHints())
    assert attester.tee is entry.tee
    for vector in folder["vectors"]:
        data = bytes.fromhex(vector["report_data"])
        evidence = await attester.evidence(data, Deadline.after(10))
        assert json.loads(msgspec.json.encode(evidence)) == vector["evidence"]
