"""Death by SIGKILL at every write point: each event is measured once and logged once, or never."""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.eventlog.entry import Entry, read_entries
from guest.crypto.digest import HashAlgorithm
from support.death_matrix import run_matrix

EXPECTED = [
    Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"a.example first content"),
    Entry(
        register=3,
        algorithm=HashAlgorithm.SHA384,
        text=b"github.com/confidential-containers second content",
    ),
]
AFTERWARDS = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"a.example afterwards content")


def entries_of(state: dict[str, Any]) -> list[Entry]:
    return list(read_entries(bytes.fromhex(state["log"])))


def verify_replay(state: dict[str, Any]) -> None:
    values = [bytes(48)] * 4
    for entry in entries_of(state):
        number = entry.register - 1
        values[number] = hashlib.sha384(values[number] + entry.digest).digest()
    assert [value.hex() for value in values] == state["registers"], state


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.spec("attestation-agent", 33, 34)
async def test_no_death_loses_or_doubles_an_event(tmp_path: Path, repository: Path) -> None:
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else tmp_path
    whole, *deaths = await run_matrix(repository, "support.crash_matrix", str(place))
    assert entries_of(whole) == EXPECTED
    verify_replay(whole)
    assert {"write", "pwrite", "fdatasync", "rename", "unlink"} <= set(whole["calls"])
    assert len(deaths) > 2 * len(whole["calls"])
    for death in deaths:
        assert death["status"] == -signal.SIGKILL, death
        assert death["restart"] == 0, death
        entries = entries_of(death)
        assert entries == EXPECTED[: len(entries)], death
        assert len(entries) >= len(death["promised"]), death
        assert ".wal_event_entry" not in death["left"], death
        assert ".wal_event_register" not in death["left"], death
        verify_replay(death)
        assert death["later"] == 0, death
        assert entries_of(death["later_state"]) == [*entries, AFTERWARDS]
        verify_replay(death["later_state"])
