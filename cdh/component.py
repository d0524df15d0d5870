"""Builds CDH from its configuration and a channel to the attestation agent.

Source: docs/spec/confidential-data-hub.md 1.2 and 3.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from cdh import credentials
from cdh.agent import AgentClient
from cdh.assembly import assemble
from cdh.config import DEFAULT_GRPC_SOCKET, DEFAULT_SOCKET, CdhConfig
from cdh.first_needs import first_needs
from cdh.rpc import DataHubEdge
from guest.deadline import Deadline, boot_seconds
from guest.errors import PlatformError, first_failure
from guest.process import DEFAULT_PATH
from guest.rpc.method import Channel, Routes
from guest.rpc.server import Server
from guest.secret import Secret
from image_pull.observer import PullObserver, Unobserved

log = logging.getLogger(__name__)

OpenServer = Callable[[Routes], Server]
"""Makes the server of the routes; it is bound, published and drained here."""


class ConfidentialDataHub:
    """The service.

    Attributes:
        name: for the supervisor.
        routes: its methods, for in-process channels too.
        first_needs: modules that the first requests import.
    """

    name: Final = "confidential-data-hub"

    def __init__(
        self,
        config: CdhConfig,
        aa: Channel,
        open_server: OpenServer,
        *,
        grpc: bool = False,
        runtime_dir: Path = credentials.RUNTIME_DIR,
        pulls: PullObserver = Unobserved(),  # noqa: B008  # has no state
        started: float | None = None,
        path: str = DEFAULT_PATH,
    ) -> None:
        """Construct everything; connect to nothing, import nothing heavy.

        Args:
            config: what `cdh.config.effective` gave.
            aa: leads to the attestation agent; closed at the end.
            open_server: see `OpenServer`.
            grpc: word failures as the gRPC build does.
            runtime_dir: what CDH writes lies below it.
            pulls: told of image pulls.
            started: when the process began, in seconds since boot; None for now.
            path: where programs are looked for.

        Raises:
            ConfigError: no source of resources of that name, or a credential's path is refused.
        """
        self.first_needs: Final = first_needs(config)
        self._config = config
        self._grpc = grpc
        self._runtime_dir = runtime_dir
        began = boot_seconds() if started is None else started
        self._credentials_due = Deadline(began + config.credentials_seconds)
        self._placements = credentials.plan(config.credentials, runtime_dir)
        self._parts = assemble(config, aa, runtime_dir, pulls, path, grpc=grpc)
        self._resources = self._parts.resources
        exact = config.rpc.exact_status
        self.routes: Final = DataHubEdge(self._parts.hub, grpc=grpc, exact_status=exact).routes()
        if config.resource_injection.enabled:
            _serve_injection(self.routes, config, aa, runtime_dir)
        self._server = open_server(self.routes)

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Store the credentials, appear, serve until `stop`, finish what is under way.

        Raises:
            ConfigError: a credential cannot be had; `init Hub failed: ...`.
            PlatformError: a file or socket cannot be made.
        """
        try:
            await self._server.bind()
            self._write_ocicrypt_config()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resources.run(stop), name="cdh resources background")
                tasks.create_task(self._parts.puller.run(stop), name="cdh image store background")
                if await self._store_credentials(stop):
                    await self._server.publish()
                    ready()
                    await stop.wait()
                    await self._server.drain()
        except BaseExceptionGroup as group:
            failure = first_failure(group)
            raise failure from failure.__cause__
        finally:
            await self._server.drain(0.0)
            await self._parts.close()

    async def prepare(self) -> None:
        """Have ready what the first pull needs beside modules.

        Raises:
            GuestError: it cannot be had now; the first pull tries again.
        """
        await self._parts.puller.prepare()

    async def _store_credentials(self, stop: asyncio.Event) -> bool:
        """Whether all are stored; not so when `stop` is set before."""
        if not self._placements:
            return True
        work = credentials.fetch_and_store(
            self._placements, self._resources, self._runtime_dir, self._credentials_due
        )
        async with asyncio.TaskGroup() as tasks:
            storing = tasks.create_task(work, name="cdh credentials")
            stopping = tasks.create_task(stop.wait(), name="cdh stop")
            await asyncio.wait((storing, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            storing.cancel()
        if storing.cancelled():
            return False
        log.info("credentials stored", extra={"count": len(self._placements)})
        return True

    def _write_ocicrypt_config(self) -> None:
        if self._config.ocicrypt_keyprovider_config is not None:
            return
        kind = "grpc" if self._grpc else "ttrpc"
        socket = self._config.socket or (DEFAULT_GRPC_SOCKET if self._grpc else DEFAULT_SOCKET)
        document = {"key-providers": {"attestation-agent": {kind: socket}}}
        content = Secret(msgspec.json.encode(document))
        try:
            credentials.write_file(self._runtime_dir, (credentials.OCICRYPT_FILE,), content)
        except PlatformError as error:
            raise PlatformError(f"init Hub failed: set configuration envs: {error}") from error


def _serve_injection(routes: Routes, config: CdhConfig, aa: Channel, runtime_dir: Path) -> None:
    """Serve resource injection too; loads what keys need, before the socket is there."""
    from cdh.injection import ResourceInjection
    from cdh.injection_rpc import InjectionEdge

    injection = ResourceInjection(config.resource_injection, AgentClient(aa), runtime_dir)
    InjectionEdge(injection, exact_status=config.rpc.exact_status).bind(routes)
