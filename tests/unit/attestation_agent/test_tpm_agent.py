"""The whole agent on a guest with a TPM: measurement, its log, and the log in evidence."""

import asyncio
import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters import detect
from attestation_agent.eventlog.files import DIRECTORY, LogFiles
from attestation_agent.eventlog.journal import Journal
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest_simulator.tpm.verifier import verify_tpm
from support.tpm_world import TpmGuest, tpm_guest

pytestmark = [pytest.mark.swtpm]

DATA = b"report data"


@asynccontextmanager
async def journal_on(guest: TpmGuest, attester: Any) -> AsyncIterator[Journal]:
    """The event log of the guest's agent."""
    files = LogFiles(guest.hints().at(DIRECTORY))
    journal = Journal(attester.registers, files, default_register=16)
    await journal.open()
    yield journal
    await journal.close()


async def test_what_is_measured_is_in_the_log_of_evidence_and_replays(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester: Any = detect(guest.hints())
        async with journal_on(guest, attester) as journal:
            await journal.append("a", "b", "first", None, Deadline.after(10))
            await journal.append("a", "b", "second", 9, Deadline.after(10))
            await journal.append("a", "b", "third", 16, Deadline.after(10))
            evidence = await attester.evidence(DATA, Deadline.after(10))
            verify_tpm(evidence, DATA, None)
            log = base64.b64decode(evidence["cc_eventlog"])
            assert replay(log) == {
                number: evidence["tpm_quote"]["pcrs"][number] for number in (9, 16)
            }
            guest.extend(16, bytes(32))
            evidence = await attester.evidence(DATA, Deadline.after(10))
            assert "cc_eventlog" not in evidence


async def test_a_measurement_that_races_with_evidence_waits_for_it(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester: Any = detect(guest.hints())
        async with journal_on(guest, attester) as journal:
            for number in range(4):
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(attester.evidence(DATA, Deadline.after(30)))
                    for part in range(3):
                        text = f"{number}-{part}"
                        group.create_task(journal.append("a", "b", text, None, Deadline.after(30)))
                evidence = task.result()
                verify_tpm(evidence, DATA, None)
                log = base64.b64decode(evidence["cc_eventlog"])
                for register, value in replay(log).items():
                    assert evidence["tpm_quote"]["pcrs"][register] == value


async def test_a_register_of_another_locality_leaves_neither_entry_nor_record(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        attester: Any = detect(guest.hints())
        async with journal_on(guest, attester) as journal:
            with pytest.raises(PlatformError, match=r"^PCR 17 cannot be extended"):
                await journal.append("a", "b", "c", 17, Deadline.after(10))
            directory = short_tmp / DIRECTORY.lstrip("/")
            assert sorted(path.name for path in directory.iterdir()) == ["eventlog"]
            assert (directory / "eventlog").read_bytes() == b""


def replay(log: bytes) -> dict[int, str]:
    """What a verifier makes of a SHA-256 log: register to its value, hexadecimal."""
    (size,) = struct.unpack_from("<I", log, 28)
    at = 32 + size
    values: dict[int, bytes] = {}
    while log[at : at + 8] != b"\xff" * 8:
        index, _kind, count, algorithm = struct.unpack_from("<IIIH", log, at)
        assert (count, algorithm) == (1, 0x0B)
        digest = log[at + 14 : at + 46]
        values[index] = hashlib.sha256(values.get(index, bytes(32)) + digest).digest()
        at += 50 + struct.unpack_from("<I", log, at + 46)[0]
    return {index: value.hex() for index, value in values.items()}


def test_evidence_getter_prints_evidence_of_the_tpm_that_its_variable_names(
    short_tmp: Path,
) -> None:
    with tpm_guest(short_tmp) as guest:
        getter = Path(sys.executable).parent / "evidence_getter"
        environment = dict(os.environ, AA_TPM_DEVICE=guest.path)
        done = subprocess.run(
            [getter, "commandline", "hello"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        name, _, text = done.stdout.strip().partition(":")
        assert name == "Tpm"
        verify_tpm(json.loads(text), b"hello", None)
