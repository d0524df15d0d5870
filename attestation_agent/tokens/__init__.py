"""All kinds of tokens, by the name that a caller gives.

Source: docs/spec/attestation-agent.md 4.5 and 5.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from attestation_agent.collector import EvidenceCollector
from attestation_agent.config import TokenConfigs
from guest.deadline import Deadline
from guest.errors import InvalidInputError, UnsupportedError
from guest.proxies import Proxies
from guest.secret import Secret


class TokenSource(Protocol):
    """Where one kind of token comes from."""

    async def fetch(self, deadline: Deadline, additional_data: str | None = None) -> Secret:
        """A new token, as `GetToken` answers it."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class TokenSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What token sources are made from.

    Attributes:
        configs: `[token_configs]`.
        evidence: proves what this guest is.
        init_data: text of the init data document, where the agent was given it.
        proxies: of outbound HTTP.
        headers: what attestations carry besides.
    """

    configs: TokenConfigs
    evidence: EvidenceCollector
    init_data: str | None = None
    proxies: Proxies = msgspec.field(default_factory=Proxies)
    headers: Callable[[], tuple[tuple[str, str], ...]] = tuple


class TokenEntry(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        kind: as `TokenType` names it, matched exactly.
        open: makes the source, off the event loop; UnsupportedError where it is not configured.
    """

    kind: str
    open: Callable[[TokenSetup], TokenSource]


class TokenTable:
    """The sources of this agent; each is made when the first token of its kind is wanted."""

    def __init__(self, setup: TokenSetup) -> None:
        """Keep the parts; nothing is imported or opened yet."""
        self._setup = setup
        self._sources: dict[str, TokenSource] = {}
        self._opening = asyncio.Lock()

    async def fetch(
        self, kind: str, deadline: Deadline, additional_data: str | None = None
    ) -> Secret:
        """A new token of a kind.

        Raises:
            InvalidInputError: no such kind.
            UnsupportedError: it is not configured.
            GuestError: what its source raises.
        """
        source = await self._find(kind)
        return await source.fetch(deadline, additional_data)

    async def close(self) -> None:
        """Close every source that was made."""
        for source in self._sources.values():
            await source.close()
        self._sources.clear()

    async def _find(self, kind: str) -> TokenSource:
        entry = next((entry for entry in TOKENS if entry.kind == kind), None)
        if entry is None:
            raise InvalidInputError("Unsupported token type")
        async with self._opening:
            if kind not in self._sources:
                self._sources[kind] = await asyncio.to_thread(entry.open, self._setup)
            return self._sources[kind]


def _open_kbs(setup: TokenSetup) -> TokenSource:
    config = setup.configs.kbs
    if config is None:
        raise UnsupportedError("kbs token config not configured in config file")
    from attestation_agent.tokens.kbs import KbsTokens

    return KbsTokens(
        config,
        setup.evidence,
        init_data=setup.init_data,
        proxies=setup.proxies,
        headers=setup.headers,
    )


def _open_coco_as(setup: TokenSetup) -> TokenSource:
    config = setup.configs.coco_as
    if config is None:
        raise UnsupportedError("coco_as token config not configured in config file")
    from attestation_agent.tokens.coco_as import CocoAsTokens

    return CocoAsTokens(
        config,
        setup.evidence,
        init_data=setup.init_data,
        proxies=setup.proxies,
        headers=setup.headers,
    )


TOKENS: Final = (
    TokenEntry("kbs", open=_open_kbs),
    TokenEntry("coco_as", open=_open_coco_as),
)
