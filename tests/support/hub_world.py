"""CDH's edge in process, with sources, puller and agent that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from cdh.agent import AgentClient
from cdh.hub import DataHub, Puller, VolumeMounter
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.rpc import DataHubEdge
from guest.deadline import Deadline
from guest.errors import GuestError, NotFoundError, UnreachableError
from guest.protos import aa_pb2
from guest.protos.methods import EXTEND_RUNTIME_MEASUREMENT
from guest.resource_uri import ResourceUri
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Channel, Routes
from guest.secret import Secret
from support.sealed_world import make_unsealer

DIGEST = "sha256:" + "5" * 64
KEK = bytes.fromhex("36d8ff9e9e2724cc5c3b0ab9364b6f05ff7a7c4c789eadd51ebe0e84288bd720")


class Resources:
    """Resources by path, or one failure for all."""

    def __init__(self, failure: GuestError | None = None) -> None:
        self.failure = failure
        self.resources: Mapping[str, bytes] = {
            "default/key/1": b"key1",
            "default/image-kek/1": KEK,
        }

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        if self.failure is not None:
            raise self.failure
        if uri.path not in self.resources:
            raise NotFoundError(f"no {uri}")
        return Secret(self.resources[uri.path])

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        return


class FakePuller:
    """Says what was asked of it, or fails."""

    def __init__(self, failure: GuestError | None = None) -> None:
        self.failure = failure
        self.pulled: list[tuple[str, Path]] = []
        self.release = asyncio.Event()
        self.release.set()
        self.begun = 0
        self.discarded: list[Path] = []

    async def pull(self, image: str, bundle: Path, *, deadline: Deadline) -> str:
        self.begun += 1
        await self.release.wait()
        if self.failure is not None:
            raise self.failure
        self.pulled.append((image, bundle))
        return DIGEST

    async def discard(self, bundle: Path) -> None:
        self.discarded.append(bundle)

    async def close(self) -> None:
        return


class Agent:
    """An attestation agent that records measurements."""

    def __init__(self, result: int = 0, failure: Exception | None = None) -> None:
        self.result = result
        self.failure = failure
        self.requests: list[bytes] = []
        routes = Routes()
        routes.bind(EXTEND_RUNTIME_MEASUREMENT, self.extend)
        self.channel = InProcessChannel(routes)

    async def extend(
        self, request: aa_pb2.ExtendRuntimeMeasurementRequest, context: CallContext
    ) -> aa_pb2.ExtendRuntimeMeasurementResponse:
        self.requests.append(request.SerializeToString())
        if self.failure is not None:
            raise self.failure
        response = aa_pb2.ExtendRuntimeMeasurementResponse()
        response.ParseFromString(bytes([0x08, self.result]))
        return response


class UnreachableAgent:
    """A channel to where nobody listens."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def call(self, *arguments: object, **options: object) -> object:
        raise UnreachableError(f"{self.address}: refused")

    async def close(self) -> None:
        return


def hub_routes(
    resources: Resources | None = None,
    *,
    puller: FakePuller | GuestError | None = None,
    agent: object = None,
    mounts: VolumeMounter | None = None,
    grpc: bool = False,
    exact: bool = False,
) -> Routes:
    """The edge's routes over fakes."""
    resources = resources or Resources()
    puller = puller or FakePuller()

    async def open_puller() -> Puller:
        if isinstance(puller, GuestError):
            raise puller
        return puller

    hub = DataHub(
        resources=resources,
        keys=LayerKeys(resources, open_decrypter),
        unsealer=make_unsealer(resources),
        open_puller=open_puller,
        measurer=AgentClient(agent),  # type: ignore[arg-type]  # a fake has no generics
        mounts=mounts,
    )
    return DataHubEdge(hub, grpc=grpc, exact_status=exact).routes()


@asynccontextmanager
async def served(
    resources: Resources | None = None,
    *,
    puller: FakePuller | GuestError | None = None,
    agent: object = None,
    grpc: bool = False,
) -> AsyncIterator[Channel]:
    """A channel to the edge."""
    channel = agent if agent is not None else Agent().channel
    inside = InProcessChannel(hub_routes(resources, puller=puller, agent=channel, grpc=grpc))
    try:
        yield inside
    finally:
        await inside.close()
        await channel.close()  # type: ignore[attr-defined]  # a fake has no generics
