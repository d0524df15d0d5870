"""CDH's calls through a channel: texts, codes, what is passed on."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from cdh.agent import AgentClient
from cdh.hub import DataHub
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms import open_decrypter
from cdh.kms.base import InitialisationError
from cdh.rpc import DataHubEdge
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DeniedError,
    GuestError,
    InvalidInputError,
    UnavailableError,
    UnreachableError,
)
from guest.protos import aa_pb2, cdh_pb2, keyprovider_pb2
from guest.protos.methods import (
    GET_RESOURCE,
    PULL_IMAGE,
    SECURE_MOUNT,
    UNSEAL_SECRET,
    UNWRAP_KEY,
    WRAP_KEY,
)
from guest.rpc.method import CallContext, Channel
from guest.rpc.status import Code, Status, StatusError
from support.hub_world import (
    DIGEST,
    Agent,
    FakePuller,
    Resources,
    UnreachableAgent,
    served,
)
from support.sealed_world import make_unsealer


async def get(channel: Channel, uri: str) -> bytes:
    request = cdh_pb2.GetResourceRequest(ResourcePath=uri)
    return (await channel.call(GET_RESOURCE, request, deadline=Deadline.after(5))).Resource


async def unwrap(channel: Channel, data: bytes) -> bytes:
    request = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=data)
    response = await channel.call(UNWRAP_KEY, request, deadline=Deadline.after(5))
    return response.KeyProviderKeyWrapProtocolOutput


async def pull(channel: Channel, image: str = "busybox", bundle: str = "/run/b") -> str:
    request = cdh_pb2.ImagePullRequest(image_url=image, bundle_path=bundle)
    return (await channel.call(PULL_IMAGE, request, deadline=Deadline.after(5))).manifest_digest


async def failure(work: object) -> str:
    with pytest.raises(GuestError) as caught:
        await work  # type: ignore[misc]  # any of the calls above
    return str(caught.value).partition(": ")[0] + ": " + str(caught.value).partition(": ")[2]


async def test_a_resource_comes_back_as_it_is() -> None:
    async with served() as channel:
        assert await get(channel, "kbs:///default/key/1") == b"key1"


@pytest.mark.spec("confidential-data-hub", 34)
@pytest.mark.parametrize("uri", ["kbs:///default/key/2", "", "kbs:///", "default/key/1", "kbs:a/b"])
async def test_a_resource_that_cannot_be_had_has_the_fixed_text(uri: str) -> None:
    async with served() as channel:
        assert (await failure(get(channel, uri))).startswith("[CDH] [ERROR]: Get Resource failed")


async def test_dot_and_empty_segments_are_refused_and_not_resolved() -> None:
    async with served() as channel:
        for uri in ("kbs:///x/../default/key/1", "kbs:///./default/key/1", "kbs:////default/key/1"):
            with pytest.raises(InvalidInputError):
                await get(channel, uri)
        with pytest.raises(InvalidInputError):
            await get(channel, "kbs:///x/%2e%2E/default/key/1")


async def test_a_source_that_cannot_be_used_has_a_text_of_its_own() -> None:
    error = InitialisationError("no agent")
    error.__cause__ = UnreachableError("nobody listens")
    async with served(Resources(error)) as channel:
        with pytest.raises(UnavailableError, match="kbs client initialization failed"):
            await get(channel, "kbs:///default/key/1")


@pytest.mark.parametrize("exact", [False, True])
async def test_the_wire_s_code_is_internal_unless_exact_codes_are_asked_for(exact: bool) -> None:
    for error, code in ((DeniedError("no"), 7), (DeadlineError("late"), 4)):
        resources = Resources(error)
        hub = DataHub(
            resources=resources,
            keys=LayerKeys(resources, open_decrypter),
            unsealer=make_unsealer(resources),
            open_puller=lambda: asyncio.sleep(0, FakePuller()),
            measurer=AgentClient(Agent().channel),
        )
        edge = DataHubEdge(hub, exact_status=exact)
        request = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///a/b/c")
        with pytest.raises(StatusError) as caught:
            await edge.get_resource(request, CallContext(deadline=Deadline.after(5)))
        status = caught.value.status
        assert status.message == "[CDH] [ERROR]: Get Resource failed"
        assert status.code == (code if exact or code == 4 else 13)
        assert status.detail is not None
        assert status.detail.status == code


async def test_secrets_and_volumes_are_refused_and_not_pretended() -> None:
    async with served() as channel:
        deadline = Deadline.after(5)
        with pytest.raises(GuestError, match=r"\[CDH\] \[ERROR\]: Unseal Secret failed"):
            await channel.call(UNSEAL_SECRET, cdh_pb2.UnsealSecretInput(), deadline=deadline)
        with pytest.raises(GuestError, match=r"\[CDH\] \[ERROR\]: Secure Mount failed"):
            await channel.call(SECURE_MOUNT, cdh_pb2.SecureMountRequest(), deadline=deadline)


@pytest.mark.spec("confidential-data-hub", 18, 19, 20)
async def test_the_published_vectors_unwrap_through_the_call(vectors: Path) -> None:
    document = json.loads((vectors / "cdh" / "packets.json").read_text())
    async with served() as channel:
        expected = document["output"].encode()
        assert await unwrap(channel, document["input"].encode()) == expected
        for vector in document["vectors"][:4]:
            annotation = base64.b64encode(vector["packet"].encode()).decode()
            params = {"annotation": annotation, "dc": {"Parameters": None}}
            data = json.dumps({"op": "keyunwrap", "keyunwrapparams": params})
            assert await unwrap(channel, data.encode()) == expected
            assert all(
                isinstance(n, int) for n in json.loads(expected)["keyunwrapresults"]["optsdata"]
            )


ENVELOPE_FAILURES = (b"", b"garbage", b'{"keyunwrapparams":{"annotation":"%%"}}', b"[]")
NO_ANNOTATION = (b'{"keyunwrapparams":{}}', b'{"keyunwrapparams":{"annotation":null}}')


def changed(member: str, value: object) -> bytes:
    packet: dict[str, object] = {
        "kid": "kbs:///default/image-kek/1",
        "wrapped_data": "W7N7urTRJx34itP8Q7Yb0FusbN4=",
        "iv": "AAECAwQFBgcICQoL",
        "wrap_type": "A256GCM",
    }
    packet[member] = value
    annotation = base64.b64encode(json.dumps(packet).encode()).decode()
    return json.dumps({"keyunwrapparams": {"annotation": annotation}}).encode()


PACKET_FAILURES = (
    changed("kid", "kbs:///default/key/2"),
    changed("kid", "kbs:///default/key/1"),
    changed("kid", 1),
    changed("wrap_type", "A128GCM"),
    changed("wrapped_data", "W7N7urTRJx34itP8Q7Yb0FusbN8="),
    changed("wrapped_data", "AAAA"),
    changed("provider", "aliyun"),
)


@pytest.mark.spec("confidential-data-hub", 17, 23)
@pytest.mark.spec("ocicrypt", 32, 35)
async def test_each_failure_to_unwrap_has_the_text_of_its_transport() -> None:
    ttrpc = "[ERROR] UnwrapKey Parse request failed"
    grpc = "[ERROR] CDH Unwrap Key failed: "
    async with served() as one, served(grpc=True) as other:
        for data in ENVELOPE_FAILURES + NO_ANNOTATION:
            assert (await failure(unwrap(one, data))).startswith(ttrpc)
            assert (await failure(unwrap(other, data))).startswith(grpc)
        for data in NO_ANNOTATION:
            text = grpc + "Illegal UnwrapKey request: no AnnotationPacket given."
            assert (await failure(unwrap(other, data))).startswith(text)
        for channel in (one, other):
            for data in PACKET_FAILURES:
                text = await failure(unwrap(channel, data))
                assert text.startswith("[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed")


async def test_wrapping_is_known_and_not_done() -> None:
    request = keyprovider_pb2.KeyProviderKeyWrapProtocolInput()
    path = "/keyprovider.KeyProviderService/WrapKey"
    for grpc, text in ((False, f"{path} is not supported"), (True, "WrapKey not implemented.")):
        async with served(grpc=grpc) as channel:
            with pytest.raises(GuestError, match=text):
                await channel.call(WRAP_KEY, request, deadline=Deadline.after(5))


async def test_a_pull_is_measured_with_the_exact_bytes() -> None:
    agent, puller = Agent(), FakePuller()
    async with served(puller=puller, agent=agent.channel) as channel:
        assert await pull(channel, "quay.io/x/y:1", "/run/b") == DIGEST
    assert puller.pulled == [("quay.io/x/y:1", Path("/run/b"))]
    expected = aa_pb2.ExtendRuntimeMeasurementRequest(
        Domain="github.com/confidential-containers",
        Operation="PullImage",
        Content='{"image":"quay.io/x/y:1", "digest":"' + DIGEST + '"}',
    )
    assert agent.requests == [expected.SerializeToString()]
    assert not expected.HasField("RegisterIndex")


@pytest.mark.spec("confidential-data-hub", 55)
async def test_a_guest_without_event_log_or_agent_still_pulls(tmp_path: Path) -> None:
    for result in (0, 1, 2):
        agent = Agent(result)
        async with served(agent=agent.channel) as channel:
            assert await pull(channel) == DIGEST
        assert b'{"image":"busybox", "digest":"' in agent.requests[0]
    old = Agent(failure=StatusError(Status(code=Code.UNKNOWN, message="eventlog not enabled")))
    async with served(agent=old.channel) as channel:
        assert await pull(channel) == DIGEST
    socket = tmp_path / "aa.sock"
    async with served(agent=UnreachableAgent(f"unix://{socket}")) as channel:
        assert await pull(channel) == DIGEST
        socket.touch()
        text = await failure(pull(channel))
    assert text.startswith(
        "[CDH] [ERROR]: Attestation Agent client error: failed to connect to attestation agent: "
    )


async def test_a_measurement_that_fails_fails_the_pull() -> None:
    agent, puller = Agent(failure=DeadlineError("slow")), FakePuller()
    async with served(agent=agent.channel, puller=puller) as channel:
        text = await failure(pull(channel))
        assert puller.discarded == [Path("/run/b")]
        start = (
            "[CDH] [ERROR]: Attestation Agent client error: failed to extend runtime measurement: "
        )
        assert text.startswith(start)
    async with served(agent=Agent(result=9).channel) as channel:
        text = await failure(pull(channel))
        assert "failed to get runtime measurement result: unknown value 9" in text


async def test_an_agent_s_own_time_limit_does_not_read_as_the_caller_s() -> None:
    agent = Agent(failure=DeadlineError("slow"))
    async with served(agent=agent.channel) as channel:
        with pytest.raises(UnavailableError):
            await pull(channel)


async def test_failures_of_the_puller_keep_its_text() -> None:
    text = "Failed to pull image x from all mirror/mapping locations or original location: image: x"
    async with served(puller=FakePuller(DeniedError(text))) as channel:
        assert (await failure(pull(channel))).startswith(f"[CDH] [ERROR]: Image Pull error: {text}")
    for text in ("Image Client error: Malwared registry configuration: y", "Image Pull error: z"):
        async with served(puller=FakePuller(DeniedError(text))) as channel:
            assert (await failure(pull(channel))).startswith(f"[CDH] [ERROR]: {text}")
    async with served(puller=GuestError("y")) as channel:
        assert (await failure(pull(channel))).startswith("[CDH] [ERROR]: Image Client error: y")


@pytest.mark.parametrize("image", ['a"b', "a\\b", "a\nb", "a\x7fb"])
async def test_a_reference_that_would_break_the_measurement_is_not_pulled(image: str) -> None:
    puller = FakePuller()
    async with served(puller=puller) as channel:
        text = await failure(pull(channel, image))
    assert text.startswith("[CDH] [ERROR]: Image Pull error: Illegal image reference")
    assert puller.begun == 0


async def test_a_relative_bundle_is_refused() -> None:
    async with served() as channel:
        text = await failure(pull(channel, bundle="b"))
    assert text.startswith("[CDH] [ERROR]: Image Pull error: Failed to create bundle")


@pytest.mark.spec("confidential-data-hub", 57, 58)
async def test_pulls_and_secrets_do_not_wait_for_each_other(vectors: Path) -> None:
    puller = FakePuller()
    puller.release.clear()
    document = json.loads((vectors / "cdh" / "packets.json").read_text())
    async with served(puller=puller) as channel, asyncio.TaskGroup() as tasks:
        tasks.create_task(pull(channel, "a"), name="pull a")
        tasks.create_task(pull(channel, "b"), name="pull b")
        while puller.begun < 2:
            await asyncio.sleep(0)
        assert await get(channel, "kbs:///default/key/1") == b"key1"
        await unwrap(channel, document["input"].encode())
        puller.release.set()
