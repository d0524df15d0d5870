"""What the attestation agent does, whatever the transport.

Source: docs/spec/attestation-agent.md 4.
"""

import logging
import unicodedata
from enum import Enum
from typing import Final, Protocol

from attestation_agent.collector import EvidenceCollector
from guest.deadline import Deadline
from guest.errors import DeniedError, InvalidInputError
from guest.secret import Secret
from guest.tee import Tee

log = logging.getLogger(__name__)

MAX_EVENT_BYTES: Final = 64 * 1024
"""Longest domain, operation and content together, in bytes of UTF-8."""


class Measured(Enum):
    """What became of a runtime measurement."""

    DONE = "done"
    NOT_SUPPORTED = "not-supported"
    NOT_ENABLED = "not-enabled"


class EventJournal(Protocol):
    """Extends registers and records why, one event at a time."""

    async def append(
        self, domain: str, operation: str, content: str, register: int | None, deadline: Deadline
    ) -> None:
        """Extend the register (None: the configured one) and write the entry."""
        ...


class TokenFetcher(Protocol):
    """Who has tokens."""

    async def fetch(
        self, kind: str, deadline: Deadline, additional_data: str | None = None
    ) -> Secret:
        """A new token of a kind."""
        ...


class Agent:
    """The use cases of the attestation agent."""

    def __init__(
        self,
        collector: EvidenceCollector,
        tokens: TokenFetcher,
        *,
        is_event_log_enabled: bool = False,
        journal: EventJournal | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            collector: has the attesters.
            tokens: has the tokens.
            is_event_log_enabled: the configuration wants the event log.
            journal: keeps it; None where it is off or the TEE cannot measure.
        """
        self._collector = collector
        self._tokens = tokens
        self._is_event_log_enabled = is_event_log_enabled
        self._journal = journal
        self._bound: bytes | None = None

    async def tee(self) -> Tee:
        """The primary TEE, as detected at start; never fails, never any I/O."""
        return await self._collector.tee()

    def additional_tees(self) -> tuple[Tee, ...]:
        """The additional TEEs, in the order of detection."""
        return self._collector.devices()

    async def evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Primary evidence, compact JSON text.

        Raises:
            GuestError: what the attester raises.
        """
        return await self._collector.evidence(report_data, deadline)

    async def additional_evidence(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Evidence of all devices, a JSON object; no bytes at all without devices.

        Raises:
            GuestError: what an attester raises.
        """
        return (await self._collector.additional_evidence(report_data, deadline)).encode("utf-8")

    async def token(
        self, kind: str, deadline: Deadline, additional_data: str | None = None
    ) -> Secret:
        """A new token; `kind` is matched exactly.

        Args:
            kind: of the token.
            deadline: for all of it.
            additional_data: what the caller wants in the token, where the kind has a place for it.

        Raises:
            InvalidInputError: no such kind.
            UnsupportedError: the kind is not configured.
            GuestError: attestation failed.
        """
        return await self._tokens.fetch(kind, deadline, additional_data)

    async def extend(
        self, domain: str, operation: str, content: str, register: int | None, deadline: Deadline
    ) -> Measured:
        """Record an event, where the log is enabled and the TEE can measure.

        Args:
            domain: who reports; no white space.
            operation: what happened; no white space.
            content: about what; no line ends.
            register: which one to extend; None is the configured one, 0 is a register.
            deadline: when it must have begun; once begun it is ended.

        Raises:
            InvalidInputError: the event would not be one line of three fields, or is too long.
            GuestError: what the journal raises.
        """
        if not self._is_event_log_enabled:
            return Measured.NOT_ENABLED
        if self._journal is None:
            return Measured.NOT_SUPPORTED
        _verify_event(domain, operation, content)
        await self._journal.append(domain, operation, content, register, deadline)
        return Measured.DONE

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> bool:
        """Tie the guest to an init data digest, once; False where the TEE has no such thing.

        Raises:
            DeniedError: another digest is bound already.
            IntegrityError: the guest was launched with another one.
            InvalidInputError: the TEE takes no digest of that length.
        """
        binder = self._collector.primary.init_data
        if binder is None:
            log.info("init data is not bound: the TEE has no binding")
            return False
        if self._bound is not None:
            if digest != self._bound:
                raise DeniedError("init data is bound already, to another digest")
            return True
        await binder.bind(digest, deadline)
        self._bound = digest
        log.info("init data is bound", extra={"digest": digest.hex()})
        return True


def _verify_event(domain: str, operation: str, content: str) -> None:
    if "\n" in content or "\r" in content:
        raise InvalidInputError("content contains newline")
    for name, text in (("domain", domain), ("operation", operation)):
        if not text:
            raise InvalidInputError(f"{name} is empty")
        if any(mark.isspace() or unicodedata.category(mark) == "Cc" for mark in text):
            raise InvalidInputError(f"{name} contains white space or a control character")
    length = sum(len(text.encode("utf-8")) for text in (domain, operation, content))
    if length > MAX_EVENT_BYTES:
        raise InvalidInputError(f"event of {length} bytes, expected at most {MAX_EVENT_BYTES}")
