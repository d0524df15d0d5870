"""Handlers of the suite's methods that wait, fail and note what happened, behind a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from guest.protos import methods
from guest.protos.aa_pb2 import (
    ExtendRuntimeMeasurementRequest,
    ExtendRuntimeMeasurementResponse,
    GetTeeTypeRequest,
    GetTeeTypeResponse,
)
from guest.protos.cdh_pb2 import (
    GetResourceRequest,
    GetResourceResponse,
    ImagePullRequest,
    ImagePullResponse,
    SecureMountRequest,
    SecureMountResponse,
)
from guest.rpc.method import CallContext, Routes
from guest.rpc.server import DEFAULT_LIMITS, ServerLimits
from guest.rpc.status import Code, Status, StatusError
from guest.ttrpc.server import TtrpcServer
from support.ttrpc_wire import Frame, request


class World:
    """The handlers and what they saw."""

    server: TtrpcServer

    def __init__(self, directory: Path) -> None:
        self.path = f"{directory}/s.sock"
        self.contexts: list[CallContext] = []
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.finished: list[str] = []
        self.release = asyncio.Event()
        self.routes = Routes()
        self.routes.bind(methods.GET_RESOURCE, self.get)
        self.routes.bind(methods.GET_TEE_TYPE, self.tee)
        self.routes.bind(methods.EXTEND_RUNTIME_MEASUREMENT, self.extend)
        self.routes.bind(methods.PULL_IMAGE, self.pull)
        self.routes.bind(methods.SECURE_MOUNT, self.mount)
        self.routes.declare(methods.WRAP_KEY)

    async def get(self, asked: GetResourceRequest, context: CallContext) -> GetResourceResponse:
        self.contexts.append(context)
        what = asked.ResourcePath
        self.started.append(what)
        if what.startswith("size:"):
            return GetResourceResponse(Resource=bytes(int(what[5:])))
        if what == "kbs:///fail":
            text = "[CDH] [ERROR]: Get Resource failed"
            raise StatusError(Status(code=Code.INTERNAL, message=text))
        if what == "wait":
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.append(what)
                raise
        return GetResourceResponse(Resource=b"value-of-key-1")

    async def tee(self, asked: GetTeeTypeRequest, context: CallContext) -> GetTeeTypeResponse:
        return GetTeeTypeResponse()

    async def extend(
        self, asked: ExtendRuntimeMeasurementRequest, context: CallContext
    ) -> ExtendRuntimeMeasurementResponse:
        await self._work("extend")
        return ExtendRuntimeMeasurementResponse()

    async def pull(self, asked: ImagePullRequest, context: CallContext) -> ImagePullResponse:
        await self._work("pull")
        return ImagePullResponse()

    async def mount(self, asked: SecureMountRequest, context: CallContext) -> SecureMountResponse:
        await self._work("mount")
        return SecureMountResponse()

    async def _work(self, name: str) -> None:
        self.started.append(name)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            await self.release.wait()
            self.cancelled.append(name)
            raise
        self.finished.append(name)


@asynccontextmanager
async def served(
    directory: Path, *, limits: ServerLimits = DEFAULT_LIMITS, grace: float = 0.1
) -> AsyncIterator[World]:
    world = World(directory)
    server = TtrpcServer(world.routes, f"unix://{world.path}", limits=limits)
    world.server = server
    await server.bind()
    await server.publish()
    try:
        yield world
    finally:
        await server.drain(grace)


def call(name: str, stream_id: int, *, timeout: int = 0) -> Frame:
    service, method = {
        "extend": ("attestation_agent.AttestationAgentService", "ExtendRuntimeMeasurement"),
        "pull": ("api.ImagePullService", "PullImage"),
        "mount": ("api.SecureMountService", "SecureMount"),
        "tee": ("attestation_agent.AttestationAgentService", "GetTeeType"),
    }[name]
    return request(stream_id, service=service, method=method, payload=b"", timeout=timeout)
