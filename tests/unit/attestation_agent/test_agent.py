"""The use cases that decide something: measurement and binding."""

import pytest

from attestation_agent.agent import Agent, Measured
from attestation_agent.attesters.base import Attester, MeasurementRegisters
from attestation_agent.attesters.sample import SampleAttester
from attestation_agent.collector import EvidenceCollector
from guest.deadline import Deadline
from guest.errors import DeniedError, IntegrityError, InvalidInputError
from guest.secret import Secret
from guest.tee import Tee

LAUNCHED = bytes(32)


def soon() -> Deadline:
    return Deadline.after(30)


class NoTokens:
    async def fetch(
        self, kind: str, deadline: Deadline, additional_data: str | None = None
    ) -> Secret:
        raise AssertionError("nobody asks for tokens here")


class Journal:
    """Notes what would be measured."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, int | None]] = []

    async def append(
        self, domain: str, operation: str, content: str, register: int | None, deadline: Deadline
    ) -> None:
        self.events.append((domain, operation, content, register))


class Binder:
    """A TEE whose launch bound one digest."""

    def __init__(self) -> None:
        self.calls = 0

    async def bind(self, digest: bytes, deadline: Deadline) -> None:
        self.calls += 1
        if digest != LAUNCHED:
            raise IntegrityError("Init data does not match!")


class BoundAttester:
    """A TEE that can bind."""

    tee = Tee.TDX
    registers: MeasurementRegisters | None = None

    def __init__(self) -> None:
        self.init_data = Binder()

    async def evidence(self, report_data: bytes, deadline: Deadline) -> object:
        return None


def agent_of(
    *, enabled: bool = True, journal: Journal | None = None, attester: Attester | None = None
) -> Agent:
    collector = EvidenceCollector(attester or SampleAttester())
    return Agent(collector, NoTokens(), is_event_log_enabled=enabled, journal=journal)


async def test_disabled_is_told_before_unsupported_and_both_before_a_wrong_event() -> None:
    journal = Journal()
    disabled = agent_of(enabled=False, journal=journal)
    assert await disabled.extend("", "", "\n", None, soon()) is Measured.NOT_ENABLED
    assert await agent_of().extend("", "", "\n", None, soon()) is Measured.NOT_SUPPORTED
    assert journal.events == []


async def test_an_event_reaches_the_journal_with_its_register() -> None:
    journal = Journal()
    agent = agent_of(journal=journal)
    assert await agent.extend("d", "o", "c c", None, soon()) is Measured.DONE
    assert await agent.extend("d", "o", "", 0, soon()) is Measured.DONE
    assert journal.events == [("d", "o", "c c", None), ("d", "o", "", 0)]


@pytest.mark.spec("attestation-agent", 30)
@pytest.mark.parametrize(
    ("domain", "operation"),
    [("a b", "o"), ("d", "a b"), ("a\tb", "o"), ("d", "a\nb"), ("", "o"), ("d", ""),
     ("a\u00a0b", "o"), ("d", "a\u2028b"), ("a\0b", "o"), ("d", "a\x7f")],
)  # fmt: skip
async def test_a_domain_or_operation_that_would_shift_fields_is_refused(
    domain: str, operation: str
) -> None:
    journal = Journal()
    with pytest.raises(InvalidInputError):
        await agent_of(journal=journal).extend(domain, operation, "c", None, soon())
    assert journal.events == []


@pytest.mark.parametrize("content", ["a\nb", "a\r", "\n"])
async def test_content_with_a_line_end_is_refused(content: str) -> None:
    journal = Journal()
    with pytest.raises(InvalidInputError, match=r"^content contains newline$"):
        await agent_of(journal=journal).extend("d", "o", content, None, soon())
    assert journal.events == []


async def test_an_event_longer_than_64_kib_is_refused() -> None:
    journal = Journal()
    agent = agent_of(journal=journal)
    await agent.extend("d", "o", "x" * (64 * 1024 - 2), None, soon())
    with pytest.raises(InvalidInputError, match="at most 65536"):
        await agent.extend("d", "o", "\u00e9" * (32 * 1024), None, soon())
    assert len(journal.events) == 1


async def test_a_tee_without_binding_says_so() -> None:
    assert not await agent_of().bind_init_data(LAUNCHED, soon())


async def test_the_first_binding_stands_and_the_same_again_is_nothing() -> None:
    attester = BoundAttester()
    agent = agent_of(attester=attester)
    with pytest.raises(IntegrityError):
        await agent.bind_init_data(b"\1" * 32, soon())
    assert await agent.bind_init_data(LAUNCHED, soon())
    assert await agent.bind_init_data(LAUNCHED, soon())
    with pytest.raises(DeniedError, match="bound already"):
        await agent.bind_init_data(b"\1" * 32, soon())
    assert attester.init_data.calls == 2
