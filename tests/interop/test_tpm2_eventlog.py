"""`tpm2_eventlog` of tpm2-tools reads our event log and reaches the same registers.

It knows neither the end marker of `cc_eventlog` nor a header of another register than 0, so both
are taken from what it gets; nothing else is.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.journal import Journal
from attestation_agent.eventlog.replay import assemble
from attestation_agent.eventlog.tcg2 import END_MARKER
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest_simulator.tdx.ccel import SHA256, SHA384, FirmwareEvent, digest_of, log_of
from guest_simulator.tdx.guest import TdxGuest
from support.tdx_world import attester_of, make_guest

pytestmark = pytest.mark.tpm2_eventlog

FIRMWARE = (FirmwareEvent(1, 4, bytes(4)), FirmwareEvent(3, 6, b"\1\0\0\0\6\0\0\0initrd"))


def read(log: bytes, folder: Path) -> Any:
    """What the program makes of it."""
    assert log.endswith(END_MARKER)
    (folder / "log").write_bytes(bytes(4) + log[4 : -len(END_MARKER)])
    done = subprocess.run(
        ["tpm2_eventlog", str(folder / "log")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return yaml.load(done.stdout, yaml.BaseLoader)


async def measured(guest: TdxGuest) -> bytes:
    """The agent's own log after two events."""
    attester = attester_of(guest)
    assert attester.registers is not None
    files = LogFiles(f"{guest.root}/run/attestation-agent")
    journal = Journal(attester.registers, files, default_register=17)
    await journal.open()
    for register in (None, 9):
        await journal.append("domain", "operation", "content", register, Deadline.after(30))
    return Path(guest.root, "run/attestation-agent/eventlog").read_bytes()


@pytest.mark.parametrize("firmware", [(), FIRMWARE])
async def test_it_reaches_the_registers_that_were_extended(
    short_tmp: Path, firmware: tuple[FirmwareEvent, ...]
) -> None:
    guest = make_guest(short_tmp)
    for event in firmware:
        guest.domain.registers.extend(event.register - 1, digest_of(event))
    own = await measured(guest)
    log = assemble(log_of(firmware, (SHA384,)) if firmware else None, own)
    assert log is not None
    read_back = read(log, short_tmp)
    values = {index: int(value, 16) for index, value in read_back["pcrs"]["sha384"].items()}
    extended = [int.from_bytes(value) for value in guest.domain.registers.all()]
    assert values == {str(number): value for number, value in enumerate(extended, 1) if value}
    events = read_back["events"][-2:]
    assert [event["EventType"] for event in events] == ["EV_EVENT_TAG"] * 2
    assert [event["PCRIndex"] for event in events] == ["4", "3"]
    data = b"LEAA" + (24).to_bytes(4, "little") + b"domain operation content"
    assert [event["Event"] for event in events] == [data.hex()] * 2


def test_it_reads_entries_of_sha256_for_a_tpms_registers(short_tmp: Path) -> None:
    texts = (b"domain operation content", b"domain operation another")
    entries = [Entry(register=16, algorithm=HashAlgorithm.SHA256, text=text) for text in texts]
    log = assemble(log_of((), (SHA256,)), b"".join(entry.encode() for entry in entries))
    assert log is not None
    value = bytes(32)
    for entry in entries:
        value = HashAlgorithm.SHA256.of(value + entry.digest).value
    pcrs = read(log, short_tmp)["pcrs"]["sha256"]
    assert {index: int(text, 16) for index, text in pcrs.items()} == {"16": int.from_bytes(value)}
