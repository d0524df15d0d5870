"""A REST shim on a free port, with an attestation agent and a data hub that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from api_server_rest.component import ApiServerRest
from api_server_rest.config import Feature, Injection, RestConfig
from guest.protos import aa_pb2, cdh_pb2
from guest.protos.methods import (
    EXTEND_RUNTIME_MEASUREMENT,
    GET_ADDITIONAL_EVIDENCE,
    GET_ADDITIONAL_TEES,
    GET_EVIDENCE,
    GET_RESOURCE,
    GET_TEE_TYPE,
    GET_TOKEN,
)
from guest.rpc.method import CallContext, Channel, Routes
from guest.rpc.server import serving
from guest.rpc.status import Code, Status, StatusError
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer as it came.

    Attributes:
        status: of HTTP.
        headers: by lower-case name.
        body: the bytes.
        version: `HTTP/1.1`.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    version: str


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply | None:
    """The next answer on a connection; None when it was closed instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    version, status, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    length = 0 if head_only else int(headers.get("content-length", "0"))
    return Reply(int(status), headers, await reader.readexactly(length), version)


class Backends:
    """The agent and the hub: what they were asked, and what they answer."""

    def __init__(self, folder: Path) -> None:
        self.aa_address = f"unix://{folder}/aa.sock"
        self.cdh_address = f"unix://{folder}/cdh.sock"
        self.requests: list[tuple[str, bytes]] = []
        self.deadlines: list[float] = []
        self.resources: dict[str, bytes] = {"kbs:///default/key/1": b"key1"}
        self.tee = "sample"
        self.additional_tees: list[str] = []
        self.result = 0
        self.failure: StatusError | None = None
        self.gate: asyncio.Event | None = None
        self.under_way = 0
        self.most_under_way = 0

    def fail(self, text: str = "secret cause") -> None:
        """Answer everything with INTERNAL from now on."""
        self.failure = StatusError(Status(code=Code.INTERNAL, message=text))

    async def _note(self, name: str, data: bytes, context: CallContext) -> None:
        self.requests.append((name, data))
        self.deadlines.append(context.deadline.remaining())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.under_way -= 1
        if self.failure is not None:
            raise self.failure

    async def get_resource(
        self, request: cdh_pb2.GetResourceRequest, context: CallContext
    ) -> cdh_pb2.GetResourceResponse:
        """A resource by its whole URI."""
        gate, self.gate = self.gate, self.gate if "slow" in request.ResourcePath else None
        try:
            await self._note("GetResource", request.SerializeToString(), context)
        finally:
            self.gate = gate
        if request.ResourcePath not in self.resources:
            raise StatusError(Status(code=Code.INTERNAL, message="no such resource"))
        return cdh_pb2.GetResourceResponse(Resource=self.resources[request.ResourcePath])

    async def get_token(
        self, request: aa_pb2.GetTokenRequest, context: CallContext
    ) -> aa_pb2.GetTokenResponse:
        """A token that names its type."""
        await self._note("GetToken", request.SerializeToString(), context)
        return aa_pb2.GetTokenResponse(Token=b"token of " + request.TokenType.encode())

    async def get_evidence(
        self, request: aa_pb2.GetEvidenceRequest, context: CallContext
    ) -> aa_pb2.GetEvidenceResponse:
        """Evidence that is its runtime data."""
        await self._note("GetEvidence", request.SerializeToString(), context)
        return aa_pb2.GetEvidenceResponse(Evidence=request.RuntimeData)

    async def get_additional_evidence(
        self, request: aa_pb2.GetAdditionalEvidenceRequest, context: CallContext
    ) -> aa_pb2.GetEvidenceResponse:
        """The same."""
        await self._note("GetAdditionalEvidence", request.SerializeToString(), context)
        return aa_pb2.GetEvidenceResponse(Evidence=request.RuntimeData)

    async def extend(
        self, request: aa_pb2.ExtendRuntimeMeasurementRequest, context: CallContext
    ) -> aa_pb2.ExtendRuntimeMeasurementResponse:
        """The result that was set."""
        await self._note("ExtendRuntimeMeasurement", request.SerializeToString(), context)
        response = aa_pb2.ExtendRuntimeMeasurementResponse()
        response.ParseFromString(bytes([0x08, self.result]))
        return response

    async def get_tee_type(
        self, request: aa_pb2.GetTeeTypeRequest, context: CallContext
    ) -> aa_pb2.GetTeeTypeResponse:
        """The TEE that was set."""
        await self._note("GetTeeType", request.SerializeToString(), context)
        return aa_pb2.GetTeeTypeResponse(tee=self.tee)

    async def get_additional_tees(
        self, request: aa_pb2.GetAdditionalTeesRequest, context: CallContext
    ) -> aa_pb2.GetAdditionalTeesResponse:
        """The devices that were set."""
        await self._note("GetAdditionalTees", request.SerializeToString(), context)
        return aa_pb2.GetAdditionalTeesResponse(additional_tees=self.additional_tees)

    def aa_server(self) -> TtrpcServer:
        """A server of the agent's methods, at its address."""
        routes = Routes()
        routes.bind(GET_TOKEN, self.get_token)
        routes.bind(GET_EVIDENCE, self.get_evidence)
        routes.bind(GET_ADDITIONAL_EVIDENCE, self.get_additional_evidence)
        routes.bind(EXTEND_RUNTIME_MEASUREMENT, self.extend)
        routes.bind(GET_TEE_TYPE, self.get_tee_type)
        routes.bind(GET_ADDITIONAL_TEES, self.get_additional_tees)
        return TtrpcServer(routes, self.aa_address)

    def cdh_server(self) -> TtrpcServer:
        """A server of the hub's methods, at its address."""
        routes = Routes()
        routes.bind(GET_RESOURCE, self.get_resource)
        return TtrpcServer(routes, self.cdh_address)


class RestWorld:
    """A running shim.

    Attributes:
        backends: behind it.
        host: where it listens.
        port: where it listens.
    """

    def __init__(self, backends: Backends, host: str, port: int) -> None:
        self.backends = backends
        self.host = host
        self.port = port

    async def connect(
        self, local: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, from a chosen local address if one is given."""
        address = None if local is None else (local, 0)
        return await asyncio.open_connection(
            self.host, self.port, local_addr=address, limit=8 * 1024 * 1024
        )

    async def raw(self, data: bytes, *, replies: int = 1, head_only: bool = False) -> list[Reply]:
        """Send bytes; the answers until so many came or the connection was closed."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            found: list[Reply] = []
            for _ in range(replies):
                reply = await read_reply(reader, head_only=head_only)
                if reply is None:
                    break
                found.append(reply)
            return found
        finally:
            writer.close()

    async def ask(
        self, method: str, target: str, body: bytes | None = None, headers: str = ""
    ) -> Reply:
        """One request on a connection of its own."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n"
        head_only = method == "HEAD"
        (reply,) = await self.raw(head.encode() + (body or b""), head_only=head_only)
        return reply

    async def get(self, target: str) -> Reply:
        """GET."""
        return await self.ask("GET", target)


@asynccontextmanager
async def rest_world(
    folder: Path,
    *,
    feature: Feature = Feature.ALL,
    bind: str = "127.0.0.1:0",
    with_aa: bool = True,
    with_cdh: bool = True,
    refuse_origin: bool = False,
    injection: Injection = Injection.OFF,
    cdh: Channel | None = None,
    change: Callable[[Backends], None] = lambda backends: None,
) -> AsyncIterator[RestWorld]:
    """A shim with its backends; either may be absent, and `cdh` leads to another hub."""
    backends = Backends(folder)
    change(backends)
    config = RestConfig(
        bind=bind,
        feature=feature,
        cdh_address=backends.cdh_address,
        aa_address=backends.aa_address,
        version="v0.16.0",
        refuse_origin=refuse_origin,
        injection=injection,
    )
    hub = cdh or TtrpcChannel(config.cdh_address)
    shim = ApiServerRest(config, TtrpcChannel(config.aa_address), hub)
    ready, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        if with_aa:
            tasks.create_task(_serve(backends.aa_server(), stop), name="fake AA")
        if with_cdh:
            tasks.create_task(_serve(backends.cdh_server(), stop), name="fake CDH")
        tasks.create_task(shim.run(ready=ready.set, stop=stop), name="shim")
        try:
            await ready.wait()
            for present, address in (
                (with_aa, backends.aa_address),
                (with_cdh, backends.cdh_address),
            ):
                while present and not Path(address.removeprefix("unix://")).exists():
                    await asyncio.sleep(0.001)
            host, _, port = shim.address.rpartition(":")
            yield RestWorld(backends, host.strip("[]"), int(port))
        finally:
            stop.set()


async def _serve(server: TtrpcServer, stop: asyncio.Event) -> None:
    async with serving(server, grace=0.1):
        await stop.wait()
