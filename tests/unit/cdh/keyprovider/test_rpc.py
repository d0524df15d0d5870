"""`WrapKey` and `UnWrapKey` over gRPC, with a KBS that registers or does not."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cdh.keyprovider.owner import OwnerSettings, key_provider
from cdh.keyprovider.packet import AnnotationPacket
from cdh.keyprovider.registration import AdminClaims
from guest.deadline import Deadline
from guest.errors import DeadlineError
from guest.protos.keyprovider_pb2 import (
    KeyProviderKeyWrapProtocolInput,
    KeyProviderKeyWrapProtocolOutput,
)
from guest.rpc.grpc import GrpcServer
from guest.rpc.server import serving
from guest.rpc.status import StatusError
from guest_simulator.faults import Fault
from guest_simulator.kbs.admin import AdminMode, AdminRules
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.server import Kbs
from guest_simulator.kbs.store import DirectoryStore

SERVICE = "/keyprovider.KeyProviderService/"


@pytest.fixture
def vector(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "keyprovider" / "wrap.json").read_text())
    return loaded


def wrap_input(parameters: str, optsdata: object = "e30=") -> bytes:
    encoded = base64.b64encode(parameters.encode()).decode()
    ec = {"Parameters": {"attestation-agent": [encoded]}}
    return json.dumps({"op": "keywrap", "keywrapparams": {"ec": ec, "optsdata": optsdata}}).encode()


class Client:
    """A gRPC client that knows nothing of our channels."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(self, name: str, request: bytes) -> bytes:
        invoke = self._channel.unary_unary(
            SERVICE + name,
            request_serializer=KeyProviderKeyWrapProtocolInput.SerializeToString,
            response_deserializer=KeyProviderKeyWrapProtocolOutput.FromString,
        )
        answer = await invoke(
            KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=request), timeout=30
        )
        return bytes(answer.KeyProviderKeyWrapProtocolOutput)

    async def refusal(self, name: str, request: bytes) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(name, request)
        return caught.value.code().name, caught.value.details() or ""


@asynccontextmanager
async def provider(settings: OwnerSettings | None = None) -> AsyncIterator[Client]:
    async with key_provider(settings or OwnerSettings()) as service:
        server = GrpcServer(service.routes(), "127.0.0.1:0")
        async with serving(server), grpc.aio.insecure_channel(server.address) as channel:
            yield Client(channel)


def packet_of(output: bytes) -> AnnotationPacket:
    numbers = json.loads(output)["keywrapresults"]["annotation"]
    assert isinstance(numbers, list)
    return AnnotationPacket.decode(bytes(numbers))


@pytest.mark.spec("ocicrypt", 20)
async def test_the_request_of_skopeo_is_answered_with_an_array_of_numbers(
    vector: dict[str, Any], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes.fromhex(vector["kek"]))
    before = "keypath=/key::keyid=kbs:///default/key/1::algorithm=A256GCM"
    text = vector["wrap_input"].replace(
        base64.b64encode(before.encode()).decode(),
        base64.b64encode(before.replace("/key::", f"{key}::", 1).encode()).decode(),
    )
    async with provider() as client:
        packet = packet_of(await client.call("WrapKey", text.encode()))
    assert (packet.kid, packet.wrap_type) == ("kbs:///default/key/1", "A256GCM")


@pytest.mark.spec("ocicrypt", 30)
async def test_unwrapping_is_not_what_the_owners_provider_does() -> None:
    async with provider() as client:
        refusal = await client.refusal("UnWrapKey", b"{}")
    assert refusal == ("UNIMPLEMENTED", "UnWrapKey API of sample-kbs is unimplemented!")


@pytest.mark.parametrize(
    ("request_bytes", "code", "text"),
    [
        (
            b"\xff",
            "INVALID_ARGUMENT",
            "key_provider_key_wrap_protocol_input is not legal utf8 string: ",
        ),
        (b"{}", "INVALID_ARGUMENT", "parse key provider input failed: "),
        (
            wrap_input("sample=true", None),
            "INVALID_ARGUMENT",
            "illegal keywrapparams without optsdata",
        ),
        (
            b'{"op":"keywrap","keywrapparams":{"ec":null,"optsdata":"e30="}}',
            "INVALID_ARGUMENT",
            "illegal keywrapparams without ec",
        ),
        (
            b'{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{}},"optsdata":"e30="}}',
            "INVALID_ARGUMENT",
            "illegal encryption provider without attestation-agent",
        ),
        (wrap_input("sample=true", "?"), "ABORTED", "base64 decode"),
        (wrap_input("algorithm=ROT13"), "INVALID_ARGUMENT", "illegal parameters: "),
        (wrap_input("keypath=/nonexistent"), "INTERNAL", "encrypt failed: "),
        (wrap_input("keyid=a::keypath=/dev/null"), "INTERNAL", "encrypt failed: "),
    ],
)
async def test_refusals_have_the_specified_codes_and_texts(
    request_bytes: bytes, code: str, text: str
) -> None:
    async with provider() as client:
        found = await client.refusal("WrapKey", request_bytes)
    assert found[0] == code
    assert found[1].startswith(text)


@pytest.mark.spec("ocicrypt", 27)
@pytest.mark.parametrize("size", [31, 33, 45])
async def test_a_key_file_of_another_length_fails_as_specified(tmp_path: Path, size: int) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"A" * size)
    async with provider() as client:
        code, text = await client.refusal("WrapKey", wrap_input(f"keypath={key}"))
    assert code == "INTERNAL"
    assert text.startswith("encrypt failed: ")
    assert f"{size} bytes" in text


@pytest.mark.spec("ocicrypt", 28)
async def test_a_key_that_would_be_lost_is_refused_and_says_what_to_do() -> None:
    async with provider() as client:
        code, text = await client.refusal("WrapKey", wrap_input("Enabled"))
    assert code == "INTERNAL"
    assert "a random KEK would be lost" in text
    assert "--kbs" in text


@pytest.mark.spec("ocicrypt", 29)
async def test_a_registration_is_complete_and_its_failure_fails_the_wrapping(
    vector: dict[str, Any], tmp_path: Path
) -> None:
    pem = tmp_path / "admin.pem"
    pem.write_text(vector["jwt"]["pem"])
    private = load_pem_private_key(pem.read_bytes(), password=None)
    rules = AdminRules(
        mode=AdminMode.AUTHENTICATED,
        keys=(private.public_key(),),  # type: ignore[arg-type]  # it is Ed25519
    )
    folder = tmp_path / "resources"
    folder.mkdir()
    kek = bytes.fromhex(vector["kek"])
    (tmp_path / "kek").write_bytes(kek)
    request = wrap_input(f"keyid=kbs:///default/key/1::keypath={tmp_path / 'kek'}")
    async with Kbs(behaviour=Behaviour(admin=rules), resources=folder) as kbs:
        settings = OwnerSettings(
            kbs=kbs.url, auth_private_key=pem, claims=AdminClaims(role="admin")
        )
        for fault in (
            Fault(path="/resource/", status=401, times=1),
            Fault(path="/resource/", status=404, times=1),
            Fault(path="/resource/", status=500, times=1),
            Fault(path="/resource/", drop=True, times=1),
        ):
            armed = kbs.faults.add(fault)
            async with provider(settings) as client:
                code, text = await client.refusal("WrapKey", request)
            assert (code, armed.hits) == ("INTERNAL", 1)
            assert text.startswith("encrypt failed: ")
        async with provider(settings) as client:
            packet_of(await client.call("WrapKey", request))
        assert DirectoryStore(folder).find("default/key/1") == kek
        *_, stored = kbs.requests.matching("POST", r"/resource/", 200)
        assert stored.path == "/kbs/v0/resource/default/key/1"
        assert stored.headers["content-type"] == "application/octet-stream"
        async with key_provider(settings) as service:
            kbs.faults.add(Fault(path="/resource/", delay=30))
            with pytest.raises(DeadlineError):
                await service.wrap(request, Deadline.after(0.5))
        without_role = OwnerSettings(kbs=kbs.url, auth_private_key=pem)
        kbs.faults.clear()
        async with key_provider(without_role) as service:
            with pytest.raises(StatusError, match="role"):
                await service.wrap(request, Deadline.after(10))
