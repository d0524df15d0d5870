"""Evidence of a TDX guest: bound, explained by its log, and never another's."""

import asyncio
import base64
import errno
import hashlib
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from attestation_agent.attesters import detect
from attestation_agent.attesters.base import QuoteChoice
from attestation_agent.attesters.tdx import TdxAttester
from attestation_agent.eventlog.entry import Entry
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.journal import Journal
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import IntegrityError, InvalidInputError, PlatformError
from guest.tee import Tee
from guest_simulator.tdx.guest import CCEL, Fault, TdxGuest
from support.tdx_world import attester_of, boot, hints_of, make_guest, parse_quote, replay_log

DATA = hashlib.sha384(b"runtime data").digest()


def soon() -> Deadline:
    return Deadline.after(30)


async def evidence_of(
    attester: TdxAttester, data: bytes = DATA, deadline: Deadline | None = None
) -> dict[str, str | None]:
    value = await attester.evidence(data, deadline or soon())
    return msgspec.convert(value, dict[str, str | None])


def log_in(evidence: dict[str, str | None]) -> bytes:
    text = evidence["cc_eventlog"]
    assert text is not None
    return base64.b64decode(text, validate=True)


def quote_in(evidence: dict[str, str | None]) -> bytes:
    text = evidence["quote"]
    assert text is not None
    return base64.b64decode(text, validate=True)


async def journal_of(guest: TdxGuest, attester: TdxAttester) -> Journal:
    assert attester.registers is not None
    files = LogFiles(f"{guest.root}/run/attestation-agent")
    journal = Journal(attester.registers, files, default_register=17)
    await journal.open()
    return journal


@pytest.mark.spec("attesters", 9, 10)
async def test_evidence_is_a_quote_that_an_independent_parser_accepts_and_no_log(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp)
    evidence = await evidence_of(attester_of(guest))
    assert set(evidence) == {"quote", "cc_eventlog"}
    assert evidence["cc_eventlog"] is None
    written = [call.data for call in guest.calls if call.call == "write"]
    assert written == [DATA + bytes(16)]
    parsed = parse_quote(quote_in(evidence), guest.platform.root)
    assert parsed.report_data == DATA + bytes(16)
    assert parsed.registers == guest.domain.registers.all()


@pytest.mark.spec("attesters", 8)
async def test_report_data_of_65_bytes_is_refused(short_tmp: Path) -> None:
    attester = attester_of(make_guest(short_tmp))
    await evidence_of(attester, bytes(64))
    await evidence_of(attester, b"")
    with pytest.raises(
        InvalidInputError, match=r"^TDX Attester: Report data must be no more than 64 bytes$"
    ):
        await attester.evidence(bytes(65), soon())


async def test_firmwares_log_and_ours_replay_to_the_quoted_registers(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    firmware = boot(guest)
    attester = attester_of(guest)
    journal = await journal_of(guest, attester)
    await journal.append("domain", "operation", "content", None, soon())
    await journal.append("domain", "operation", "another", 9, soon())
    evidence = await evidence_of(attester)
    log = log_in(evidence)
    assert log.startswith(firmware)
    quoted = parse_quote(quote_in(evidence), guest.platform.root).registers
    assert [replay_log(log).get(i, bytes(48)) for i in (1, 2, 3, 4)] == list(quoted)
    assert quoted[3] != bytes(48)


@pytest.mark.spec("attesters", 22)
async def test_measured_firmware_without_its_log_means_no_log_and_a_warning(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    guest.ccel = None
    attester = attester_of(guest)
    journal = await journal_of(guest, attester)
    await journal.append("domain", "operation", "content", None, soon())
    with caplog.at_level(logging.WARNING):
        assert (await evidence_of(attester))["cc_eventlog"] is None
    assert caplog.records[-1].message == "evidence goes without event log"
    assert vars(caplog.records[-1])["reason"] == "register 1 does not replay"


@pytest.mark.parametrize("content", [b"garbage" * 9, bytes(4) + b"\3\0\0\0" + b"\xfe" * 99])
async def test_an_unreadable_firmware_log_costs_the_log_and_not_the_evidence(
    short_tmp: Path, content: bytes
) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    guest.ccel = content
    evidence = await evidence_of(attester_of(guest))
    assert evidence["cc_eventlog"] is None
    assert evidence["quote"]


async def test_a_register_that_somebody_else_extended_means_no_log(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    boot(guest)
    attester = attester_of(guest)
    assert (await evidence_of(attester))["cc_eventlog"] is not None
    guest.domain.registers.extend(3, bytes(48))
    assert (await evidence_of(attester))["cc_eventlog"] is None


async def test_firmwares_log_is_read_once_and_again_only_when_it_does_not_explain(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp)
    firmware = boot(guest)
    attester = attester_of(guest)
    for _ in range(3):
        await evidence_of(attester)
    assert sum(call.path == CCEL for call in guest.calls) == 1
    entry = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"vendor kernel logs")
    guest.domain.registers.extend(3, entry.digest)
    guest.ccel = (firmware + entry.encode()).ljust(65536, b"\xff")
    log = log_in(await evidence_of(attester))
    assert log == firmware + entry.encode() + b"\xff" * 8


async def test_a_kernel_that_logs_our_events_itself_has_them_once(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    firmware = boot(guest)
    attester = attester_of(guest)
    await evidence_of(attester)
    journal = await journal_of(guest, attester)
    await journal.append("domain", "operation", "content", None, soon())
    entry = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"domain operation content")
    log = log_in(await evidence_of(attester))
    assert log == firmware + entry.encode() + b"\xff" * 8
    guest.ccel = (firmware + entry.encode()).ljust(65536, b"\xff")
    assert log_in(await evidence_of(attester_of(guest))) == log


async def test_the_log_is_read_from_where_the_environment_says(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    entry = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"a b c")
    guest.domain.registers.extend(3, entry.digest)
    other = short_tmp / "other"
    other.write_bytes(entry.encode())
    evidence = await evidence_of(attester_of(guest, event_log_path=str(other)))
    assert entry.encode() in log_in(evidence)
    other.write_bytes(bytes(1024 * 1024 + 1))
    assert (await evidence_of(attester_of(guest, event_log_path=str(other))))["quote"]


@pytest.mark.spec("attesters", 21)
async def test_an_event_between_quote_and_log_waits_and_the_log_still_explains(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp)
    attester = attester_of(guest)
    journal = await journal_of(guest, attester)
    await journal.append("domain", "operation", "before", None, soon())
    release = threading.Event()
    guest.faults.append(Fault(path="/outblob", call="read", block=release, times=1))
    async with asyncio.TaskGroup() as group:
        quoting = group.create_task(evidence_of(attester))
        while not any(call.path.endswith("/outblob") for call in guest.calls):
            await asyncio.sleep(0.001)
        extending = group.create_task(journal.append("domain", "operation", "after", None, soon()))
        done, _ = await asyncio.wait((extending,), timeout=0.05)
        assert not done
        release.set()
    evidence = quoting.result()
    quoted = parse_quote(quote_in(evidence), guest.platform.root).registers
    assert replay_log(log_in(evidence))[4] == quoted[3]
    assert b"before" in log_in(evidence)
    assert b"after" not in log_in(evidence)
    assert b"after" in log_in(await evidence_of(attester))


async def test_events_and_quotes_at_once_all_explain_themselves(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, quote_seconds=0.005)
    boot(guest)
    attester = attester_of(guest)
    journal = await journal_of(guest, attester)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(evidence_of(attester, bytes((n,)))) for n in range(10)]
        for n in range(10):
            group.create_task(journal.append("d", "o", str(n), (0, 9, 17)[n % 3], soon()))
    for n, task in enumerate(tasks):
        parsed = parse_quote(quote_in(task.result()), guest.platform.root)
        assert parsed.report_data == bytes((n,)) + bytes(63)
        replayed = replay_log(log_in(task.result()))
        assert [replayed.get(i, bytes(48)) for i in (1, 2, 3, 4)] == list(parsed.registers)


@pytest.mark.spec("attesters", 47)
async def test_20_callers_of_a_slow_device_each_get_their_own_and_the_loop_is_free(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp, quote_seconds=0.05)
    attester = attester_of(guest)
    data = [hashlib.sha384(bytes((n,))).digest() for n in range(20)]
    worst = 0.0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(evidence_of(attester, each)) for each in data]
        while not all(task.done() for task in tasks):
            before = time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, time.thread_time() - before)
    for each, task in zip(data, tasks, strict=True):
        parsed = parse_quote(quote_in(task.result()), guest.platform.root)
        assert parsed.report_data == each + bytes(16)
    assert guest.reports.names() == ()
    assert worst < 0.5


@pytest.mark.spec("attesters", 6)
async def test_the_instance_is_removed_after_an_error_and_after_a_caller_left(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp)
    attester = attester_of(guest)
    guest.faults.append(Fault(path="/outblob", call="read", error=errno.EIO, times=1))
    with pytest.raises(PlatformError, match="outblob: read: EIO"):
        await evidence_of(attester)
    assert guest.reports.names() == ()
    release = threading.Event()
    guest.faults[:] = [Fault(path="/outblob", call="read", block=release, times=1)]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(evidence_of(attester))
        while not any("/outblob" in call.path for call in guest.calls[-1:]):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait((task,))
        assert len(guest.reports.names()) == 1
        release.set()
        await evidence_of(attester)
    assert guest.reports.names() == ()


async def test_a_device_that_hangs_is_named_when_time_runs_out(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    release = threading.Event()
    guest.faults.append(Fault(path="/outblob", call="read", block=release, times=1))
    with pytest.raises(PlatformError, match="/outblob: read: ETIMEDOUT"):
        await evidence_of(attester_of(guest), deadline=Deadline.after(0.2))
    release.set()


GARBAGE = {
    "short": lambda quote: quote[:600],
    "header": lambda quote: b"\0" * 48 + quote[48:],
    "sgx": lambda quote: b"\3\0" + quote[2:],
    "trailing": lambda quote: quote + b"\1",
    "other report data": lambda quote: quote[:568] + bytes(64) + quote[632:],
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_quote_over_our_report_data_never_leaves(
    short_tmp: Path, name: str
) -> None:
    guest = make_guest(short_tmp, transform=GARBAGE[name])
    with pytest.raises(PlatformError, match="configfs: read: EBADMSG"):
        await evidence_of(attester_of(guest))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.EPERM])
async def test_a_log_that_cannot_be_read_is_an_error_not_an_absence(
    short_tmp: Path, number: int
) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path=CCEL, call="read", error=number))
    with pytest.raises(PlatformError, match=f"CCEL: read: {errno.errorcode[number]}"):
        await evidence_of(attester_of(guest))
    guest.faults.clear()
    log = short_tmp / "run" / "attestation-agent" / "eventlog"
    log.mkdir(parents=True)
    with pytest.raises(PlatformError, match="eventlog: read: EISDIR"):
        await evidence_of(attester_of(guest))


@pytest.mark.spec("attesters", 40)
@pytest.mark.spec("attestation-agent", 40)
@pytest.mark.parametrize("has_registers", [True, False])
async def test_init_data_is_compared_with_mrconfigid_cut_or_padded(
    short_tmp: Path, has_registers: bool
) -> None:
    guest = make_guest(short_tmp, has_registers=has_registers)
    attester = attester_of(guest)
    for length in (32, 48, 64):
        digest = bytes(range(1, length + 1))
        with pytest.raises(IntegrityError, match=r"^Init data does not match!$"):
            await attester.init_data.bind(digest, soon())
    for length in (32, 48, 64):
        digest = bytes(range(1, length + 1))
        guest.domain.config_id = digest[:48].ljust(48, b"\0")
        await attester.init_data.bind(digest, soon())
    with suppress(IntegrityError):
        await attester.init_data.bind(bytes(range(2, 34)), soon())
        pytest.fail("a digest that is not bound was accepted")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT, errno.EBUSY])
async def test_init_data_that_cannot_be_compared_is_refused(short_tmp: Path, number: int) -> None:
    guest = make_guest(short_tmp)
    guest.faults.append(Fault(path="/mrconfigid", call="read", error=number))
    with pytest.raises(PlatformError, match=f"mrconfigid: read: {errno.errorcode[number]}"):
        await attester_of(guest).init_data.bind(bytes(48), soon())
    guest = make_guest(short_tmp, has_registers=False)
    guest.faults.append(Fault(path="/dev/tdx_guest", call="ioctl", error=number))
    with pytest.raises(PlatformError, match=f"GET_REPORT: {errno.errorcode[number]}"):
        await attester_of(guest).init_data.bind(bytes(48), soon())


async def test_detection_opens_no_device_and_makes_no_report_where_a_name_is_enough(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp)
    assert detect(hints_of(guest)).tee is Tee.TDX
    assert {call.call for call in guest.calls} <= {"exists", "list"}
    guest = make_guest(short_tmp, device=None)
    assert detect(hints_of(guest)).tee is Tee.TDX
    assert guest.reports.names() == ()


async def test_an_older_stack_is_a_tdx_guest_and_measures_by_its_device(short_tmp: Path) -> None:
    guest = make_guest(
        short_tmp, device="/dev/tdx-guest", has_configfs=False, has_registers=False,
        is_vendor_kernel=True,
    )  # fmt: skip
    attester = detect(hints_of(guest))
    assert isinstance(attester, TdxAttester)
    assert attester.registers is not None
    await attester.registers.extend(17, bytes(48), soon())
    expected = hashlib.sha384(bytes(96)).digest()
    assert await attester.registers.read(17, soon()) == expected
    evidence = await evidence_of(attester)
    assert parse_quote(quote_in(evidence), guest.platform.root).registers[3] == expected


async def test_a_kernel_without_registers_cannot_measure(short_tmp: Path) -> None:
    assert attester_of(make_guest(short_tmp, has_registers=False)).registers is None
    vendor = make_guest(short_tmp, has_registers=False, is_vendor_kernel=True)
    assert attester_of(vendor, quote=QuoteChoice.IOCTL).registers is not None
