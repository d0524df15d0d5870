"""The data hub's socket as peers of other times and builds see it, in bytes."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.message import Message

from attestation_agent.calls import Calls
from attestation_agent.calls import make_parser as aa_parser
from cdh.agent import AgentClient
from cdh.hub import DataHub, Puller
from cdh.keyprovider.rpc import KeyProviderService
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.kms.base import InitialisationError
from cdh.rpc import DataHubEdge
from guest.deadline import Deadline
from guest.errors import GuestError, PeerError, PlatformError, UnsupportedError
from guest.protos import aa_pb2, cdh_pb2, keyprovider_pb2
from guest.protos.methods import (
    GET_RESOURCE,
    GET_TEE_TYPE,
    PULL_IMAGE,
    SECURE_MOUNT,
    UNSEAL_SECRET,
    UNWRAP_KEY,
    WRAP_KEY,
)
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import CallContext, Method, OnCancel, Q, R, Routes
from guest.rpc.server import serving
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from support.hub_world import DIGEST, Agent, FakePuller, Resources, hub_routes
from support.sealed_world import load_vectors, make_unsealer
from support.ttrpc_wire import Wire, request

PREFIX = "[CDH] [ERROR]: "


class Mounts:
    """Mounts everything, or nothing."""

    def __init__(self, failure: GuestError | None = None) -> None:
        self.failure = failure

    async def mount(
        self, volume_type: str, options: Mapping[str, str], mount_point: str, deadline: Deadline
    ) -> None:
        if self.failure is not None:
            raise self.failure


def routes_of(
    resources: Resources,
    *,
    puller: FakePuller | GuestError,
    agent: Agent,
    mounts: Mounts,
) -> Routes:
    async def open_puller() -> Puller:
        if isinstance(puller, GuestError):
            raise puller
        return puller

    hub = DataHub(
        resources=resources,
        keys=LayerKeys(resources, open_decrypter),
        unsealer=make_unsealer(resources),
        open_puller=open_puller,
        measurer=AgentClient(agent.channel),
        mounts=mounts,
    )
    return DataHubEdge(hub).routes()


@asynccontextmanager
async def ttrpc(folder: Path, routes: Routes) -> AsyncIterator[Wire]:
    async with serving(TtrpcServer(routes, f"unix://{folder}/s"), grace=0.1) as server:
        wire = await Wire.connect(server.address)
        try:
            yield wire
        finally:
            wire.close()


async def ask(wire: Wire, method: Method[Q, R], message: Q) -> tuple[int, str, bytes]:
    payload = message.SerializeToString()
    frame = request(1, payload=payload, service=method.service, method=method.name)
    response = (await wire.ask(frame)).response
    return response.status.code, response.status.message, response.payload


def packet_input(packet: str) -> keyprovider_pb2.KeyProviderKeyWrapProtocolInput:
    annotation = base64.b64encode(packet.encode()).decode()
    data = json.dumps({"keyunwrapparams": {"annotation": annotation}}).encode()
    return keyprovider_pb2.KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=data)


GET = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///default/key/1")
PULL = cdh_pb2.ImagePullRequest(image_url="busybox", bundle_path="/run/b")
MOUNT = cdh_pb2.SecureMountRequest(volume_type="block-device", mount_point="/mnt/x")


@pytest.mark.spec("protos", 7)
async def test_all_services_of_the_hub_and_the_key_provider_answer_on_one_connection(
    short_tmp: Path, vectors: Path
) -> None:
    vector = json.loads((vectors / "cdh" / "packets.json").read_text())["vectors"][0]
    sealed = load_vectors()
    jwk = json.loads(sealed["signing_jwk"])
    resources = Resources()
    resources.resources = {
        **resources.resources,
        "default/image-kek/1": bytes.fromhex(vector["kek"]),
        "default/signing-key/sealed-secret": json.dumps(jwk).encode(),
        "default/sealed-secret/test": b"the value",
    }
    routes = routes_of(resources, puller=FakePuller(), agent=Agent(), mounts=Mounts())
    async with ttrpc(short_tmp, routes) as wire:
        code, _, payload = await ask(wire, GET_RESOURCE, GET)
        assert (code, cdh_pb2.GetResourceResponse.FromString(payload).Resource) == (0, b"key1")
        text = cdh_pb2.UnsealSecretInput(secret=sealed["vault_sealed"].encode())
        _, _, payload = await ask(wire, UNSEAL_SECRET, text)
        assert cdh_pb2.UnsealSecretOutput.FromString(payload).plaintext == b"the value"
        _, _, payload = await ask(wire, SECURE_MOUNT, MOUNT)
        assert cdh_pb2.SecureMountResponse.FromString(payload).mount_path == "/mnt/x"
        _, _, payload = await ask(wire, PULL_IMAGE, PULL)
        assert cdh_pb2.ImagePullResponse.FromString(payload).manifest_digest == DIGEST
        _, _, payload = await ask(wire, UNWRAP_KEY, packet_input(vector["packet"]))
        output = keyprovider_pb2.KeyProviderKeyWrapProtocolOutput.FromString(payload)
        numbers = json.loads(output.KeyProviderKeyWrapProtocolOutput)["keyunwrapresults"]
        assert bytes(numbers["optsdata"]).hex() == vector["plaintext_hex"]


@pytest.mark.spec("protos", 8)
async def test_each_failure_of_the_hub_has_its_prefix_and_its_text(short_tmp: Path) -> None:
    unusable = Resources(InitialisationError("no agent"))
    missing = Resources()
    missing.resources = {}
    good, bad = Mounts(), Mounts(PlatformError("busy"))
    broken = Agent(failure=PeerError("no log"))
    denied = FakePuller(PeerError("Failed to pull image x"))
    unmade = PlatformError("Initialize layer store failed: full")
    secret = cdh_pb2.UnsealSecretInput(secret=b"sealed.a.b.c")
    cases: list[tuple[Routes, Method[Message, Message], Message, str]] = []

    def add(
        method: Method[Q, R], message: Q, text: str, resources: Resources = missing,
        *, puller: FakePuller | GuestError | None = None, agent: Agent | None = None,
        mounts: Mounts = good,
    ) -> None:  # fmt: skip
        routes = routes_of(
            resources, puller=puller or FakePuller(), agent=agent or Agent(), mounts=mounts
        )
        cases.append((routes, method, message, text))  # type: ignore[arg-type]  # any method

    add(GET_RESOURCE, GET, "Get Resource failed")
    add(GET_RESOURCE, GET, "kbs client initialization failed", unusable)
    add(UNWRAP_KEY, packet_input("{}"), "Decrypt Image (UnwrapKey) failed")
    add(UNSEAL_SECRET, secret, "Unseal Secret failed")
    add(SECURE_MOUNT, MOUNT, "Secure Mount failed", mounts=bad)
    add(PULL_IMAGE, PULL, "Image Pull error: Failed to pull image x", puller=denied)
    add(PULL_IMAGE, PULL, f"Image Client error: {unmade}", puller=unmade)
    text = "Attestation Agent client error: failed to extend runtime measurement: "
    add(PULL_IMAGE, PULL, text, agent=broken)
    for routes, method, message, text in cases:
        async with ttrpc(short_tmp, routes) as wire:
            code, said, payload = await ask(wire, method, message)
        assert (code, payload) == (13, b"")
        exact = not text.endswith(": ")
        assert said == PREFIX + text if exact else said.startswith(PREFIX + text)


@pytest.mark.spec("protos", 9)
async def test_who_wraps_and_who_unwraps_is_as_the_matrix_says(short_tmp: Path) -> None:
    from guest.rpc.grpc import GrpcChannel, GrpcServer

    empty = keyprovider_pb2.KeyProviderKeyWrapProtocolInput()
    async with ttrpc(short_tmp, hub_routes()) as wire:
        path = "/keyprovider.KeyProviderService/WrapKey"
        assert (await ask(wire, WRAP_KEY, empty))[:2] == (5, f"{path} is not supported")
        text = "[ERROR] UnwrapKey Parse request failed"
        assert (await ask(wire, UNWRAP_KEY, empty))[:2] == (13, text)
    provider = KeyProviderService(object()).routes()  # type: ignore[arg-type]  # never asked
    wrong = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=b"{}")
    matrix = (
        (hub_routes(grpc=True), WRAP_KEY, "WrapKey not implemented."),
        (hub_routes(grpc=True), UNWRAP_KEY, "[ERROR] CDH Unwrap Key failed: "),
        (provider, UNWRAP_KEY, "UnWrapKey API of sample-kbs is unimplemented!"),
        (provider, WRAP_KEY, ""),
    )
    for routes, method, text in matrix:
        async with serving(GrpcServer(routes, "127.0.0.1:0"), grace=0.1) as server:
            channel = GrpcChannel(server.address)
            with pytest.raises(GuestError) as caught:
                await channel.call(method, wrong, deadline=Deadline.after(20))
            await channel.close()
        assert str(caught.value).startswith(text)
        known = isinstance(caught.value, UnsupportedError)
        assert known is text.endswith(("implemented.", "unimplemented!"))


@pytest.mark.spec("protos", 10, 13)
async def test_answers_with_a_field_more_or_less_than_the_client_knows_are_read(
    short_tmp: Path,
) -> None:
    """kata's copy has an empty ImagePullResponse; older hubs answer a mount with its path."""
    pull = Method(
        PULL_IMAGE.service, PULL_IMAGE.name, cdh_pb2.ImagePullRequest,
        cdh_pb2.CommitResourceInjectionResponse, on_cancel=OnCancel.ROLL_BACK,
    )  # fmt: skip
    mount = Method(
        SECURE_MOUNT.service, SECURE_MOUNT.name, cdh_pb2.SecureMountRequest,
        cdh_pb2.CommitResourceInjectionResponse,
    )  # fmt: skip
    routes = routes_of(Resources(), puller=FakePuller(), agent=Agent(), mounts=Mounts())
    async with serving(TtrpcServer(routes, f"unix://{short_tmp}/s"), grace=0.1) as server:
        channel = TtrpcChannel(server.address)
        soon = Deadline.after(20)
        assert (await channel.call(pull, PULL, deadline=soon)).ByteSize() > 0  # kept, unknown
        assert (await channel.call(mount, MOUNT, deadline=soon)).ByteSize() > 0
        answer = await channel.call(SECURE_MOUNT, MOUNT, deadline=soon)
        assert answer.mount_path == "/mnt/x"
        await channel.close()

    async def nothing(
        request: cdh_pb2.SecureMountRequest, context: CallContext
    ) -> cdh_pb2.SecureMountResponse:
        return cdh_pb2.SecureMountResponse()

    upstream = Routes()
    upstream.bind(SECURE_MOUNT, nothing)
    inside = InProcessChannel(upstream)
    answer = await inside.call(SECURE_MOUNT, MOUNT, deadline=Deadline.after(20))
    assert answer.mount_path == ""
    await inside.close()


@pytest.mark.spec("protos", 12)
async def test_an_agent_that_knows_no_additional_tees_has_none(short_tmp: Path) -> None:
    from api_server_rest.backend import Backends
    from api_server_rest.config import Feature, RestConfig

    async def tee(
        request: aa_pb2.GetTeeTypeRequest, context: CallContext
    ) -> aa_pb2.GetTeeTypeResponse:
        return aa_pb2.GetTeeTypeResponse(tee="tdx")

    old = Routes()
    old.bind(GET_TEE_TYPE, tee)
    async with serving(TtrpcServer(old, f"unix://{short_tmp}/s"), grace=0.1) as server:
        channel = TtrpcChannel(server.address)
        backend = Backends(RestConfig(feature=Feature.ALL), aa=channel, cdh=channel)
        assert json.loads(await backend.info()) == {
            "version": "Guest Components Version: unknown", "tee": "tdx", "feature": "all"
        }  # fmt: skip
        arguments = aa_parser().parse_args(["get-additional-tees"])
        assert await Calls(channel, Deadline.after(20)).run(arguments) == ""
        await channel.close()
