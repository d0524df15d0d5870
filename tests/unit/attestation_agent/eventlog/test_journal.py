"""The event log that is kept: order, limits, recovery, and what a failure leaves behind."""

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters.tdx_registers import TdxRegisters
from attestation_agent.eventlog import journal as journals
from attestation_agent.eventlog.entry import Entry, WriteAhead, read_entries
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.journal import Journal
from guest.crypto.digest import HashAlgorithm
from guest.deadline import Deadline
from guest.errors import DeadlineError, GuestError, InvalidInputError, LimitError, PlatformError
from guest_simulator.tdx.guest import Fault, TdxGuest
from support.tdx_world import attester_of, make_guest

OWN = "github.com/confidential-containers"
FIRST = Entry(register=4, algorithm=HashAlgorithm.SHA384, text=b"domain operation content")


def soon() -> Deadline:
    return Deadline.after(30)


class World:
    """A guest, its registers and its log."""

    def __init__(self, root: Path) -> None:
        self.guest: TdxGuest = make_guest(root)
        registers = attester_of(self.guest).registers
        assert registers is not None
        self.registers: TdxRegisters = registers
        self.directory = root / "run" / "attestation-agent"
        self.log = self.directory / "eventlog"
        self.record = self.directory / ".wal_event_entry"
        self.register_file = self.directory / ".wal_event_register"

    async def open(self) -> Journal:
        journal = Journal(self.registers, LogFiles(str(self.directory)), default_register=17)
        await journal.open()
        return journal

    def entries(self) -> list[Entry]:
        return list(read_entries(self.log.read_bytes()))

    def register(self, number: int = 3) -> bytes:
        return self.guest.domain.registers.read(number)

    def leave(self, record: WriteAhead, register: int | None = None) -> None:
        """What a crash would leave."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self.record.write_bytes(record.encode())
        if register is not None:
            self.register_file.write_text(f"{register}\n")

    def verify(self) -> None:
        """Log and registers say the same, and nothing is left over."""
        values = [bytes(48)] * 4
        for entry in self.entries():
            number = entry.register - 1
            values[number] = hashlib.sha384(values[number] + entry.digest).digest()
        assert tuple(values) == self.guest.domain.registers.all()
        assert {path.name for path in self.directory.iterdir()} == {"eventlog"}


@pytest.fixture
def world(short_tmp: Path) -> World:
    return World(short_tmp)


def expected_after(entry: Entry, value: bytes = bytes(48)) -> bytes:
    return hashlib.sha384(value + entry.digest).digest()


async def test_an_event_is_extended_and_logged_as_published(world: World, vectors: Path) -> None:
    journal = await world.open()
    assert world.log.read_bytes() == b""
    await journal.append("domain", "operation", "content", None, soon())
    assert world.entries() == [FIRST]
    assert world.register().hex().startswith("82d3f7a4203f58da")
    world.verify()
    assert oct(world.log.stat().st_mode & 0o777) == "0o644"
    assert oct(world.directory.stat().st_mode & 0o777) == "0o755"


@pytest.mark.spec("attestation-agent", 32)
@pytest.mark.parametrize(
    ("register", "index"), [(0, 4), (1, 1), (2, 2), (7, 1), (9, 3), (16, 4), (2**64 - 1, 4)]
)
async def test_the_logged_index_is_that_of_the_register_really_extended(
    world: World, register: int, index: int
) -> None:
    journal = await world.open()
    await journal.append("domain", "operation", "content", register, soon())
    assert [entry.register for entry in world.entries()] == [index]
    assert world.register(index - 1) == expected_after(FIRST)
    world.verify()


async def test_the_record_stands_in_the_file_system_while_the_register_is_extended(
    world: World,
) -> None:
    journal = await world.open()
    release = threading.Event()
    fault = Fault(path="rtmr2:sha384", call="write", block=release, times=1)
    world.guest.faults.append(fault)
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.append("domain", "operation", "content", 9, soon()))
        while fault.times:
            await asyncio.sleep(0.001)
        record = WriteAhead.decode(world.record.read_bytes(), HashAlgorithm.SHA384)
        assert record == WriteAhead(offset=0, expected=expected_after(FIRST), text=FIRST.text)
        assert world.register_file.read_text() == "9\n"
        release.set()
    world.verify()


async def test_a_second_start_goes_on_where_the_first_ended(world: World) -> None:
    for number in range(3):
        journal = await world.open()
        await journal.append("domain", "operation", str(number), None, soon())
    assert [entry.text[-1:] for entry in world.entries()] == [b"0", b"1", b"2"]
    world.verify()


@pytest.mark.parametrize("register", [None, 17, 9])
@pytest.mark.parametrize("is_extended", [False, True])
async def test_a_cut_off_event_is_ended_at_the_next_start(
    world: World, register: int | None, is_extended: bool
) -> None:
    number = 2 if register == 9 else 3
    world.leave(WriteAhead(offset=0, expected=expected_after(FIRST), text=FIRST.text), register)
    world.log.write_bytes(FIRST.encode()[:30])
    if is_extended:
        world.guest.domain.registers.extend(number, FIRST.digest)
    await world.open()
    entry = Entry(register=number + 1, algorithm=HashAlgorithm.SHA384, text=FIRST.text)
    assert world.entries() == [entry]
    world.verify()


@pytest.mark.spec("attestation-agent", 35)
async def test_a_foreign_extension_meanwhile_is_fatal_and_said(world: World) -> None:
    world.leave(WriteAhead(offset=0, expected=expected_after(FIRST), text=FIRST.text))
    world.guest.domain.registers.extend(3, bytes(48))
    with pytest.raises(PlatformError) as caught:
        await world.open()
    assert str(caught.value) == (
        f"fatal error when recovering. The eventlog file {world.log} is probably corrupted, or "
        "other process has extend the target PCR 17."
    )
    assert world.record.exists()


@pytest.mark.spec("attestation-agent", 36)
@pytest.mark.parametrize("length", [0, 8, 55])
async def test_a_record_that_is_too_short_is_fatal_and_said(world: World, length: int) -> None:
    world.leave(WriteAhead(offset=0, expected=b"", text=b""))
    world.record.write_bytes(bytes(length))
    with pytest.raises(PlatformError, match=r"^Failed to read wal cache\."):
        await world.open()


@pytest.mark.parametrize("name", ["record", "register_file"])
async def test_a_record_that_cannot_be_read_is_fatal(world: World, name: str) -> None:
    world.leave(WriteAhead(offset=0, expected=expected_after(FIRST), text=FIRST.text), 17)
    path: Path = getattr(world, name)
    path.unlink()
    path.mkdir()
    with pytest.raises(PlatformError, match=r"^Failed to read wal cache\.") as caught:
        await world.open()
    assert "EISDIR" in ": ".join(caught.value.causes())


async def test_a_register_file_that_is_no_number_or_too_long_is_fatal(world: World) -> None:
    for text in ("x", "1" * 21, "-1", "1" * 1000):
        world.leave(WriteAhead(offset=0, expected=expected_after(FIRST), text=FIRST.text))
        world.register_file.write_text(text)
        with pytest.raises(PlatformError, match="Failed to read wal cache"):
            await world.open()


async def test_a_log_that_is_not_ours_is_fatal(world: World) -> None:
    world.directory.mkdir(parents=True)
    world.log.write_bytes(b"some text")
    with pytest.raises(PlatformError, match="eventlog: read: EBADMSG"):
        await world.open()


async def test_a_register_that_refuses_leaves_nothing_and_blocks_nobody(world: World) -> None:
    journal = await world.open()
    world.guest.faults.append(Fault(path="rtmr0:sha384", call="write", error=errno.EPERM))
    with pytest.raises(PlatformError, match="rtmr0:sha384: write: EPERM"):
        await journal.append("domain", "operation", "content", 1, soon())
    world.verify()
    await journal.append("domain", "operation", "content", None, soon())
    assert world.entries() == [FIRST]
    world.verify()


async def test_a_refusal_met_in_recovery_is_given_up_with_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.leave(WriteAhead(offset=0, expected=expected_after(FIRST), text=FIRST.text))
    world.guest.faults.append(Fault(path="rtmr3:sha384", call="write", error=errno.EPERM))
    await world.open()
    assert any(record.message == "cut-off event given up" for record in caplog.records)
    world.verify()


async def test_an_extension_that_failed_but_happened_is_logged(world: World) -> None:
    journal = await world.open()

    original = world.guest.write

    def write(path: str, data: bytes) -> int:
        original(path, data)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    world.guest.write = write  # type: ignore[method-assign]  # the failure comes after the deed
    await journal.append("domain", "operation", "content", None, soon())
    world.verify()


async def test_a_log_that_cannot_be_written_is_caught_up_by_the_next_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await world.open()
    original = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        original(handle, data[:10], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PlatformError, match="eventlog: write: ENOSPC"):
        await journal.append("domain", "operation", "content", None, soon())
    assert world.record.exists()
    monkeypatch.undo()
    await journal.append("domain", "operation", "next", None, soon())
    assert [entry.text for entry in world.entries()] == [FIRST.text, b"domain operation next"]
    world.verify()


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
async def test_a_record_that_cannot_be_written_means_nothing_was_extended(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    journal = await world.open()

    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(PlatformError, match="EIO"):
            await journal.append("domain", "operation", "content", None, soon())
    assert world.register() == bytes(48)
    assert world.entries() == []
    await journal.append("domain", "operation", "content", None, soon())
    assert world.entries()[0] == FIRST


async def test_a_caller_that_leaves_changes_nothing_about_the_event(world: World) -> None:
    journal = await world.open()
    release = threading.Event()
    fault = Fault(path="rtmr3:sha384", call="write", block=release, times=1)
    world.guest.faults.append(fault)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(journal.append("domain", "operation", "content", None, soon()))
        while fault.times:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert world.entries() == []
        release.set()
        await journal.close()
    assert world.entries() == [FIRST]
    world.verify()


async def test_an_event_whose_turn_does_not_come_is_not_begun(world: World) -> None:
    journal = await world.open()
    await world.registers.turns.take(soon())
    with pytest.raises(DeadlineError, match="the event log"):
        await journal.append("domain", "operation", "content", None, Deadline.after(0.02))
    world.registers.turns.give_back()
    world.verify()
    assert world.entries() == []


async def test_many_events_at_once_stand_in_the_log_one_after_the_other(world: World) -> None:
    journal = await world.open()
    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(journal.append("d", "o", str(n), (0, 2, 9)[n % 3], soon()))
    assert [entry.text for entry in world.entries()] == [f"d o {n}".encode() for n in range(20)]
    world.verify()


async def test_the_log_has_room_for_others_and_room_of_its_own_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "MAX_LOG_BYTES", 1000)
    monkeypatch.setattr(journals, "OWN_BYTES", 400)
    journal = await world.open()

    async def fill(domain: str) -> None:
        for _ in range(100):
            await journal.append(domain, "o", "x" * 60, None, soon())

    with pytest.raises(LimitError, match=r"event log is full: .* of 600 bytes"):
        await fill("other")
    length = world.log.stat().st_size
    assert 400 < length <= 600
    journal = await world.open()
    with pytest.raises(LimitError, match=r"event log is full: .* of 400 bytes"):
        await fill(OWN)
    assert world.log.stat().st_size - length > 200
    with pytest.raises(LimitError, match="of 600 bytes"):
        await fill("other")
    assert [r.message for r in caplog.records].count("event log is filling up") == 1
    world.verify()


async def test_a_log_is_at_most_one_mebibyte_with_a_quarter_for_the_suite() -> None:
    assert (journals.MAX_LOG_BYTES, journals.OWN_BYTES) == (1 << 20, 256 << 10)


async def test_an_event_of_more_than_16_kib_is_refused(world: World) -> None:
    journal = await world.open()
    with pytest.raises(InvalidInputError, match="expected at most 16384"):
        await journal.append("d", "o", "x" * (16 * 1024 - 3), None, soon())
    await journal.append("d", "o", "x" * (16 * 1024 - 4), None, soon())
    world.verify()


async def test_a_register_out_of_range_is_refused_before_anything(world: World) -> None:
    journal = await world.open()
    with pytest.raises(InvalidInputError):
        await journal.append("d", "o", "c", -1, soon())
    world.verify()


async def test_a_directory_that_cannot_be_made_names_itself(world: World) -> None:
    world.directory.parent.parent.joinpath("run").write_bytes(b"a file")
    with pytest.raises(GuestError, match=r"ENOTDIR|EEXIST"):
        await world.open()
