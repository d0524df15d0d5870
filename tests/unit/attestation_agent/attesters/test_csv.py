"""Evidence of a CSV guest: repaired, bound, explained by its log."""

import asyncio
import base64
import errno
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from attestation_agent.attesters import detect
from attestation_agent.attesters.csv import ChainSource, CsvAttester, open_csv
from attestation_agent.attesters.csv_registers import CsvRegisters
from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.gather import LogGatherer
from attestation_agent.eventlog.journal import Journal
from attestation_agent.hardware.csv_guest import CsvGuestDevice
from attestation_agent.hardware.device_thread import DeviceThread
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import InvalidInputError, PeerError, PlatformError
from guest.tee import Tee
from guest_simulator.hygon.csv import PATH, CsvGuest, certificate_of
from guest_simulator.tdx.guest import Fault
from support.hygon_world import (
    CsvWorld,
    encode_certificate,
    encode_hsk,
    parse_csv,
    replay_sm3,
)

DATA = hashlib.sha384(b"runtime data").digest()


async def evidence_of(
    attester: CsvAttester, data: bytes = DATA, seconds: float = 30.0
) -> dict[str, Any]:
    value = await attester.evidence(data, Deadline.after(seconds))
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(value))
    return decoded


async def journal_of(world: CsvWorld, attester: CsvAttester) -> Journal:
    files = LogFiles(f"{world.root}/run/attestation-agent")
    journal = Journal(attester.registers, files, default_register=17)
    await journal.open()
    return journal


@pytest.mark.parametrize("has_registers", [True, False])
async def test_evidence_is_the_repaired_report_with_the_signers_certificate_and_number(
    short_tmp: Path, has_registers: bool
) -> None:
    world = CsvWorld(root=short_tmp, device=CsvGuest(has_registers=has_registers))
    evidence = await evidence_of(world.attester())
    assert set(evidence) == {"attestation_report", "cert_chain", "serial_number", "cc_eventlog"}
    parsed = parse_csv(evidence)
    assert parsed.is_extended == has_registers
    assert parsed.report_data == DATA + bytes(16)
    assert parsed.measure == world.device.measure
    assert set(evidence["cert_chain"]) == {"pek"}
    assert encode_certificate(evidence["cert_chain"]["pek"]) == parsed.pek == world.device.pek
    assert evidence["cc_eventlog"] is None


@pytest.mark.spec("attesters", 42)
async def test_the_serial_number_is_an_array_of_numbers(short_tmp: Path) -> None:
    # The CCA half of the check has a test of its own.
    world = CsvWorld(root=short_tmp)
    evidence = await evidence_of(world.attester())
    assert evidence["serial_number"] == list(world.device.serial_number)
    assert len(evidence["serial_number"]) == 64
    assert parse_csv(evidence).serial_number == world.device.serial_number


async def test_each_request_has_a_nonce_of_its_own(short_tmp: Path) -> None:
    attester = CsvWorld(root=short_tmp).attester()
    nonces = {
        bytes((await evidence_of(attester))["attestation_report"]["data"][0x80:0x90])
        for _ in range(3)
    }
    assert len(nonces) == 3


@pytest.mark.spec("attesters", 8)
async def test_report_data_of_65_bytes_is_refused(short_tmp: Path) -> None:
    attester = CsvWorld(root=short_tmp).attester()
    await evidence_of(attester, bytes(64))
    await evidence_of(attester, b"")
    with pytest.raises(
        InvalidInputError, match=r"^CSV Attester: Report data must be no more than 64 bytes$"
    ):
        await attester.evidence(bytes(65), Deadline.after(5))


async def test_the_log_replays_by_sm3_to_the_registers_of_the_report(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    attester = world.attester()
    journal = await journal_of(world, attester)
    for number, register in enumerate((None, 1, 9, 2, 7)):
        await journal.append("domain", "operation", str(number), register, Deadline.after(30))
    evidence = await evidence_of(attester)
    log = base64.b64decode(evidence["cc_eventlog"])
    registers = parse_csv(evidence).registers
    values = replay_sm3(log)
    assert [values.get(index, bytes(32)) for index in (1, 2, 3, 4)] == list(registers[1:])
    assert set(values) == {1, 2, 3, 4}
    # What somebody else extended, no log explains.
    world.device.extend(2, bytes(32))
    assert (await evidence_of(attester))["cc_eventlog"] is None


async def test_a_legacy_report_goes_without_a_log_because_nothing_is_in_it_to_explain(
    short_tmp: Path,
) -> None:
    world = CsvWorld(root=short_tmp, device=CsvGuest(has_registers=False))
    entry = Entry(register=4, algorithm=HashAlgorithm.SM3, text=b"a b c")
    log = short_tmp / "run/attestation-agent/eventlog"
    log.parent.mkdir(parents=True)
    log.write_bytes(entry.encode())
    assert (await evidence_of(world.attester()))["cc_eventlog"] is None


async def test_events_and_reports_at_once_all_explain_themselves(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp, device=CsvGuest(seconds=0.005))
    attester = world.attester()
    journal = await journal_of(world, attester)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(evidence_of(attester, bytes((n,)))) for n in range(8)]
        for n in range(8):
            group.create_task(
                journal.append("d", "o", str(n), (1, 9, 17)[n % 3], Deadline.after(30))
            )
    for n, task in enumerate(tasks):
        evidence = task.result()
        parsed = parse_csv(evidence)
        assert parsed.report_data == bytes((n,)) + bytes(63)
        log = evidence["cc_eventlog"]
        values = {} if log is None else replay_sm3(base64.b64decode(log))
        assert [values.get(index, bytes(32)) for index in (1, 2, 3, 4)] == list(
            parsed.registers[1:]
        )


def at(offset: int) -> Callable[[bytes], bytes]:
    """Flip a bit of one byte."""
    return lambda page: page[:offset] + bytes((page[offset] ^ 1,)) + page[offset + 1 :]


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda page: bytes(4096),
    "echo": lambda page: page[:132] + bytes(3964),
    "nonce": at(0x80),
    "certificate": at(0x490),
    "other report data": at(0x40),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_report_over_our_data_never_leaves(short_tmp: Path, name: str) -> None:
    world = CsvWorld(root=short_tmp, device=CsvGuest(transform=GARBAGE[name]))
    with pytest.raises(PlatformError, match="/dev/csv-guest: GET_REPORT: EBADMSG"):
        await evidence_of(world.attester())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.ENOENT])
async def test_every_failure_of_the_device_is_named(short_tmp: Path, number: int) -> None:
    world = CsvWorld(root=short_tmp)
    world.machine.faults.append(Fault(path=PATH, call="ioctl", error=number))
    step = "RTMR_STATUS" if number == errno.EBUSY else "GET_REPORT"
    with pytest.raises(PlatformError, match=f"csv-guest: {step}: {errno.errorcode[number]}"):
        await evidence_of(world.attester())


async def test_a_device_that_hangs_is_named_when_time_runs_out(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    release = threading.Event()
    world.machine.faults.append(Fault(path=PATH, call="ioctl", block=release, times=1))
    with pytest.raises(PlatformError, match="/dev/csv-guest: RTMR_STATUS: ETIMEDOUT"):
        await evidence_of(world.attester(), seconds=1.0)
    release.set()


@pytest.mark.spec("attesters", 47)
async def test_a_slow_device_does_not_block_the_loop(short_tmp: Path) -> None:
    attester = CsvWorld(root=short_tmp, device=CsvGuest(seconds=0.02)).attester()
    worst = 0.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(evidence_of(attester)) for _ in range(5)]
        while not all(task.done() for task in tasks):
            before = time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, time.thread_time() - before)
    assert worst < 0.5


class Chains:
    """Hygon's service in a test."""

    def __init__(self, answer: bytes | PeerError) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def chain(self, serial_number: str, deadline: Deadline) -> bytes:
        self.asked.append(serial_number)
        if isinstance(self.answer, PeerError):
            raise self.answer
        return self.answer


def attester_with(world: CsvWorld, chains: ChainSource) -> CsvAttester:
    device = CsvGuestDevice(f"{world.root}{PATH}", world.machine)
    return CsvAttester(
        device,
        LogGatherer(f"{world.root}/none", f"{world.root}/none", world.machine),
        registers=CsvRegisters(device, DeviceThread("CSV registers")),
        chains=chains,
    )


async def test_hsk_and_cek_are_in_evidence_where_they_are_asked_for(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    hsk, cek = bytes(range(208)) * 4, certificate_of(5)
    chains = Chains(hsk + cek)
    chain = (await evidence_of(attester_with(world, chains)))["cert_chain"]
    assert chains.asked == ["TEST2026CHIP0042"]
    assert set(chain) == {"hsk_cek", "pek"}
    assert encode_hsk(chain["hsk_cek"]["hsk"]) == hsk
    assert encode_certificate(chain["hsk_cek"]["cek"]) == cek
    with pytest.raises(PeerError, match="unknown"):
        await evidence_of(attester_with(world, Chains(PeerError("unknown"))))
    nameless = CsvWorld(root=short_tmp, device=CsvGuest(serial_number=bytes(64)))
    with pytest.raises(PlatformError, match=r"EBADMSG .CSV serial number"):
        await evidence_of(attester_with(nameless, chains))


def test_hygons_service_is_asked_only_where_the_environment_says(short_tmp: Path) -> None:
    hints = CsvWorld(root=short_tmp).hints()
    assert open_csv(hints).asks_for_chains is False
    assert open_csv(replace(hints, csv_certificates=True)).asks_for_chains is True


def test_detection_opens_no_device(short_tmp: Path) -> None:
    world = CsvWorld(root=short_tmp)
    attester = detect(world.hints())
    assert attester.tee is Tee.CSV
    assert attester.init_data is None
    assert {call.call for call in world.machine.calls} <= {"exists", "list"}
    world.machine.faults.append(Fault(path=PATH, call="exists", error=errno.EACCES))
    with pytest.raises(PlatformError, match="/dev/csv-guest: stat: EACCES"):
        detect(world.hints())
