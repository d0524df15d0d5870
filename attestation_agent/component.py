"""Builds the attestation agent from its configuration and what it was launched with.

Source: docs/spec/attestation-agent.md 1.6 and 1.7.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from msgspec.structs import replace

from attestation_agent.agent import Agent, EventJournal
from attestation_agent.attesters import detect, detect_devices
from attestation_agent.attesters.base import Attester, TeeHints
from attestation_agent.collector import EvidenceCollector
from attestation_agent.config import AaConfig, AttesterConfig, ChosenTee, verify_urls
from attestation_agent.default_register import choose_register
from attestation_agent.first_needs import first_needs
from attestation_agent.launch import LaunchData
from attestation_agent.rpc import AgentEdge
from attestation_agent.tokens import TokenSetup, TokenTable
from guest.deadline import Deadline
from guest.errors import GuestError, PlatformError
from guest.proxies import Proxies
from guest.rpc.method import Routes
from guest.rpc.server import Server

log = logging.getLogger(__name__)

BIND_SECONDS: Final = 60.0
"""Most seconds that binding init data takes at start."""

MISMATCH: Final = (
    "The initdata supplied by the parameter is inconsistent with that of the current platform."
)

OpenServer = Callable[[Routes], Server]
"""Makes the server of the routes; it is bound, published and drained here."""


class InstanceTeller(Protocol):
    """Who tells a gateway of this instance."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What attestations carry besides."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Find out, and tell, until `stop`; never fails."""
        ...


class _KeptJournal(EventJournal, Protocol):
    """An event journal that has a beginning and an end."""

    async def open(self) -> None:
        """Make the files, and end what a crash cut short."""
        ...

    async def close(self) -> None:
        """Wait for what is under way."""
        ...


def _configured(hints: TeeHints, config: AttesterConfig) -> TeeHints:
    """The hints, with what the configuration says of attesters."""
    return replace(
        hints,
        quote=config.tdx.quote,
        quoting_service=config.tdx.quoting_service,
        nvidia=config.nvidia,
        tpm_beside=config.tpm,
        nvidia_dpu=config.nvidia_dpu,
    )


def _detected(hints: TeeHints, config: AttesterConfig) -> EvidenceCollector:
    """The attesters of this guest."""
    try:
        primary = detect(hints, sample_chosen=config.tee is ChosenTee.SAMPLE)
        return EvidenceCollector(primary, detect_devices(hints, beside=primary.tee))
    except GuestError as error:
        raise PlatformError("start AA") from error


class AttestationAgent:
    """The service.

    Attributes:
        name: for the supervisor.
        routes: its methods, for in-process channels too.
        first_needs: modules that the first requests import.
    """

    name: Final = "attestation-agent"

    def __init__(
        self,
        config: AaConfig,
        open_server: OpenServer,
        *,
        hints: TeeHints,
        launch: LaunchData | None = None,
        proxies: Proxies | None = None,
        grpc: bool = False,
        instance: InstanceTeller | None = None,
    ) -> None:
        """Detect the TEEs and construct everything; connect to nothing, import nothing heavy.

        Args:
            config: what was read.
            open_server: see `OpenServer`.
            hints: where and how to detect.
            launch: init data; None is a launch without it.
            proxies: of outbound HTTP.
            grpc: the texts and the method that the gRPC build has of its own.
            instance: tells a gateway of this instance; None tells nobody.

        Raises:
            ConfigError: an address in the configuration can never be reached.
            GuestError: `start AA` and why: no attester for this guest.
        """
        verify_urls(config)
        self._launch = launch or LaunchData()
        self._grpc = grpc
        self._instance = instance
        hints = _configured(hints, config.attester)
        collector = _detected(hints, config.attester)
        primary = collector.primary
        self.first_needs: Final = first_needs(config.token_configs, collector.tees())
        self._tokens = TokenTable(
            TokenSetup(
                configs=config.token_configs,
                evidence=collector,
                init_data=self._launch.text,
                proxies=proxies or Proxies(),
                headers=tuple if instance is None else instance.headers,
            )
        )
        self._journal = _open_journal(config, primary, hints)
        self._agent = Agent(
            collector,
            self._tokens,
            is_event_log_enabled=config.eventlog_config.enable_eventlog,
            journal=self._journal,
        )
        edge = AgentEdge(self._agent, grpc=grpc, exact_status=config.rpc.exact_status)
        self.routes: Final = edge.routes()
        self._server = open_server(self.routes)
        extra = {"tee": primary.tee.value, "devices": ",".join(collector.devices())}
        log.info("TEE detected", extra=extra)

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Listen unseen, bind the init data, appear, serve until `stop`, finish what is under way.

        Raises:
            GuestError: the init data is not this guest's, or the address cannot be served.
        """
        try:
            await self._serving(self._server.bind())
            await self._bind_init_data()
            await self._open_event_log()
            await self._serving(self._server.publish())
            log.info("serving", extra={"address": self._server.address})
            ready()
            await self._until(stop)
        finally:
            await self._server.drain()
            if self._journal is not None:
                await self._journal.close()
            await self._tokens.close()

    async def _until(self, stop: asyncio.Event) -> None:
        """Wait for `stop`, and tell of this instance meanwhile."""
        async with asyncio.TaskGroup() as group:
            telling = None
            if self._instance is not None:
                telling = group.create_task(self._instance.run(stop), name="instance")
            await stop.wait()
            if telling is not None:
                telling.cancel()

    async def _serving(self, step: Awaitable[None]) -> None:
        try:
            await step
        except GuestError as error:
            kind = "grpc" if self._grpc else "ttrpc"
            raise PlatformError(f"cannot bind attestation {kind} service") from error

    async def _bind_init_data(self) -> None:
        digest = self._launch.digest
        if digest is None:
            return
        try:
            await self._agent.bind_init_data(digest, Deadline.after(BIND_SECONDS))
        except GuestError as error:
            raise PlatformError(MISMATCH) from error

    async def _open_event_log(self) -> None:
        if self._journal is None:
            return
        try:
            await self._journal.open()
        except GuestError as error:
            raise PlatformError("init AA") from error


def _open_journal(config: AaConfig, primary: Attester, hints: TeeHints) -> _KeptJournal | None:
    """The event log, where it is enabled and the TEE can measure."""
    if not config.eventlog_config.enable_eventlog:
        return None
    if primary.registers is None:
        log.warning("no event log: the TEE cannot measure", extra={"tee": primary.tee.value})
        return None
    from attestation_agent.eventlog.files import DIRECTORY, LogFiles
    from attestation_agent.eventlog.journal import Journal

    return Journal(
        primary.registers,
        LogFiles(hints.at(DIRECTORY)),
        default_register=choose_register(config.eventlog_config.init_pcr, primary.tee),
    )
