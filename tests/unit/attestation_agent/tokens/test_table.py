"""The table of token kinds."""

import asyncio
from collections.abc import Callable

import pytest

from attestation_agent import tokens
from attestation_agent.attesters.sample import SampleAttester
from attestation_agent.collector import EvidenceCollector
from attestation_agent.config import TokenConfigs
from attestation_agent.tokens import TOKENS, TokenEntry, TokenSetup, TokenTable
from guest.deadline import Deadline
from guest.errors import InvalidInputError, UnsupportedError
from guest.secret import Secret


def soon() -> Deadline:
    return Deadline.after(30)


class Source:
    def __init__(self) -> None:
        self.is_closed = False

    async def fetch(self, deadline: Deadline, additional_data: str | None = None) -> Secret:
        return Secret(b"token")

    async def close(self) -> None:
        self.is_closed = True


def table() -> TokenTable:
    evidence = EvidenceCollector(SampleAttester())
    return TokenTable(TokenSetup(configs=TokenConfigs(), evidence=evidence))


def planted(made: list[Source]) -> Callable[[TokenSetup], Source]:
    def open_source(setup: TokenSetup) -> Source:
        made.append(Source())
        return made[-1]

    return open_source


async def test_a_source_is_made_once_and_closed_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Source] = []
    monkeypatch.setattr(tokens, "TOKENS", (TokenEntry("planted", open=planted(made)),))
    sources = table()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(sources.fetch("planted", soon()))
    await sources.close()
    assert [source.is_closed for source in made] == [True]


async def test_kinds_are_matched_exactly() -> None:
    for kind in ("KBS", "kbs ", "", "CoCo_AS"):
        with pytest.raises(InvalidInputError, match="Unsupported token type"):
            await table().fetch(kind, soon())


@pytest.mark.parametrize("kind", [entry.kind for entry in TOKENS])
async def test_a_kind_that_is_not_configured_says_so(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{kind} token config not configured"):
        await table().fetch(kind, soon())
