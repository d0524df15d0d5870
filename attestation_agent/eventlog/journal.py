"""The event log that is kept: each event extends a register once and stands in the log once.

What is about to happen is recorded first. Whatever cuts an event short, the record says how to
end it: at the next start, or before the next event.

Source: docs/spec/attestation-agent.md 7.5, 7.6 and 8.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from attestation_agent.attesters.base import MeasurementRegisters
from attestation_agent.eventlog.entry import (
    Entry,
    WriteAhead,
    domain_of,
    event_text,
    read_entries,
)
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.replay import extend
from attestation_agent.hardware.device_thread import DeviceThread
from attestation_agent.hardware.steps import Steps
from guest.deadline import Deadline
from guest.errors import DecodeError, GuestError, InvalidInputError, LimitError, PlatformError

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_EVENT_BYTES: Final = 16 * 1024
"""Longest text of one event, in bytes."""

MAX_LOG_BYTES: Final = 1024 * 1024
"""Longest log: every evidence carries all of it."""

OWN_DOMAIN: Final = b"github.com/confidential-containers"
"""The domain that the suite itself reports in."""

OWN_BYTES: Final = 256 * 1024
"""What nobody but `OWN_DOMAIN` can use up, and the most that it may use."""

WARN_SHARE: Final = 0.75
MAX_REGISTER_DIGITS: Final = 20
STEP_SECONDS: Final = 30.0
"""Most seconds that one event, once begun, waits for the register and the file system."""


class Journal:
    """Extends registers and records why (`agent.EventJournal`)."""

    def __init__(
        self, registers: MeasurementRegisters, files: LogFiles, *, default_register: int
    ) -> None:
        """Touch nothing yet.

        Args:
            registers: of the TEE.
            files: where the log is.
            default_register: extended by an event that names none.
        """
        self._registers = registers
        self._files = files
        self._default = default_register
        self._thread = DeviceThread("event log")
        self._length = 0
        self._own = 0
        self._has_warned = False
        self._under_way: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the files, read the log, and end what a crash cut short.

        Raises:
            PlatformError: the log is not ours, or a register was extended by somebody else.
        """
        deadline = Deadline.after(STEP_SECONDS)
        await self._registers.turns.take(deadline)
        try:
            await self._do(self._files.prepare)
            await self._recover()
            content = await self._do(lambda steps: self._files.read_log(MAX_LOG_BYTES, steps))
            self._count(content)
        finally:
            self._registers.turns.give_back()
        log.info("event log opened", extra={"path": self._files.path, "bytes": self._length})

    async def append(
        self, domain: str, operation: str, content: str, register: int | None, deadline: Deadline
    ) -> None:
        """Extend the register (None: the configured one) and write the entry.

        Once begun it is ended, whatever becomes of the caller.

        Raises:
            InvalidInputError: the event is too long, or there is no such register.
            LimitError: the log has no room for it; nothing was extended.
            DeadlineError: it could not begin in time; nothing was extended.
            PlatformError: register or file system failed.
        """
        chosen = self._default if register is None else register
        text = event_text(domain, operation, content)
        if len(text) > MAX_EVENT_BYTES:
            raise InvalidInputError(
                f"event of {len(text)} bytes, expected at most {MAX_EVENT_BYTES}"
            )
        entry = Entry(
            register=self._registers.log_index(chosen),
            algorithm=self._registers.algorithm,
            text=text,
        )
        await self._registers.turns.take(deadline)
        # A task of its own, because no cancellation may come between record, register and log.
        task = asyncio.get_running_loop().create_task(
            self._measure(chosen, entry), name="measurement"
        )
        self._under_way = task
        task.add_done_callback(self._end)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for the event that is under way."""
        if self._under_way is not None:
            await asyncio.wait((self._under_way,))

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._under_way = None
        self._registers.turns.give_back()
        if not task.cancelled() and task.exception() is not None:
            log.debug("event not measured", extra={"error": str(task.exception())})

    async def _measure(self, register: int, entry: Entry) -> None:
        await self._recover()
        content = entry.encode()
        self._verify_room(entry, len(content))
        deadline = Deadline.after(STEP_SECONDS)
        before = await self._registers.read(register, deadline)
        expected = extend(before, entry.digest, self._registers.algorithm)
        ahead = WriteAhead(offset=self._length, expected=expected, text=entry.text)
        record = ahead.encode()
        await self._do(lambda steps: self._files.put_record(record, register, steps))
        await self._extend(register, entry, before, expected)
        await self._finish(ahead.offset, entry, content)

    async def _extend(self, register: int, entry: Entry, before: bytes, expected: bytes) -> None:
        """Extend; after a failure find out what became of it.

        Raises:
            PlatformError: nothing was extended and the record is gone; or nobody can tell, and
                the record stays.
        """
        try:
            deadline = Deadline.after(STEP_SECONDS)
            await self._registers.extend(register, entry.digest, deadline)
        except GuestError:
            after = await self._registers.read(register, Deadline.after(STEP_SECONDS))
            if after == expected:
                return
            if after == before:
                await self._do(self._files.drop_record)
            raise

    async def _finish(self, offset: int, entry: Entry, content: bytes) -> None:
        await self._do(lambda steps: self._files.put_entry(offset, content, steps))
        await self._do(self._files.drop_record)
        self._length = offset + len(content)
        self._own += len(content) if domain_of(entry.text) == OWN_DOMAIN else 0
        if self._length > WARN_SHARE * MAX_LOG_BYTES and not self._has_warned:
            self._has_warned = True
            log.warning("event log is filling up", extra={"bytes": self._length})

    async def _recover(self) -> None:
        """End the event that a record is left of.

        Raises:
            PlatformError: the register holds neither the value before it nor the one after it.
        """
        record = await self._read_record()
        if record is None:
            await self._do(self._files.drop_record)
            return
        ahead, register = record
        entry = Entry(
            register=self._registers.log_index(register),
            algorithm=self._registers.algorithm,
            text=ahead.text,
        )
        value = await self._registers.read(register, Deadline.after(STEP_SECONDS))
        if value != ahead.expected:
            if extend(value, entry.digest, self._registers.algorithm) != ahead.expected:
                raise PlatformError(
                    f"fatal error when recovering. The eventlog file {self._files.path} is "
                    "probably corrupted, or other process has extend the target PCR "
                    f"{register}."
                )
            try:
                await self._extend(register, entry, value, ahead.expected)
            except GuestError as error:
                if await self._do(self._files.find_record) is not None:
                    raise
                log.warning("cut-off event given up", extra={"error": str(error)})
                return
        await self._finish(ahead.offset, entry, entry.encode())
        log.warning("cut-off event recovered", extra={"register": register})

    async def _read_record(self) -> tuple[WriteAhead, int] | None:
        """The record that is left, and the register it is about."""
        try:
            record = await self._do(self._files.find_record)
            text = await self._do(self._files.find_register)
        except (PlatformError, LimitError) as error:
            raise PlatformError("Failed to read wal cache.") from error
        if record is None:
            return None
        digits = str(self._default).encode() if text is None else text.strip()
        if not digits.isdigit() or len(digits) > MAX_REGISTER_DIGITS:
            raise PlatformError("Failed to read wal cache. The register is no number")
        try:
            return WriteAhead.decode(record, self._registers.algorithm), int(digits)
        except DecodeError as error:
            raise PlatformError(str(error)) from error

    def _verify_room(self, entry: Entry, length: int) -> None:
        own, others = self._own, self._length - self._own
        if domain_of(entry.text) == OWN_DOMAIN:
            used, most = own, OWN_BYTES
        else:
            used, most = others, MAX_LOG_BYTES - OWN_BYTES
        if used + length > most or self._length + length > MAX_LOG_BYTES:
            raise LimitError(f"event log is full: {used} of {most} bytes are used")

    def _count(self, content: bytes) -> None:
        self._own = 0
        try:
            for entry in read_entries(content):
                if domain_of(entry.text) == OWN_DOMAIN:
                    self._own += len(entry.encode())
        except DecodeError as error:
            raise PlatformError(f"{self._files.path}: read: EBADMSG ({error})") from error
        self._length = len(content)

    async def _do(self, work: Callable[[Steps], T]) -> T:
        return await self._thread.run(work, Deadline.after(STEP_SECONDS))
