"""CDH on its two transports: bytes of requests and responses, codes and texts of refusals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from guest.protos import cdh_pb2, keyprovider_pb2
from guest.protos.methods import UNWRAP_KEY, WRAP_KEY
from guest.rpc.grpc import GrpcServer
from guest.rpc.server import serving
from guest.ttrpc.server import TtrpcServer
from support.hub_world import hub_routes
from support.ttrpc_wire import Wire, request

WRAP = "/keyprovider.KeyProviderService/WrapKey"


@asynccontextmanager
async def ttrpc(folder: Path) -> AsyncIterator[Wire]:
    async with serving(TtrpcServer(hub_routes(), f"unix://{folder}/cdh.sock"), grace=0.1) as server:
        wire = await Wire.connect(server.address)
        yield wire
        wire.close()


async def answer(wire: Wire, path: str, payload: bytes = b"") -> tuple[int, str]:
    service, _, method = path.strip("/").partition("/")
    await wire.send(request(1, payload=payload, service=service, method=method))
    return (await wire.receive()).status


@pytest.mark.spec("confidential-data-hub", 14)
def test_the_published_messages_have_their_bytes() -> None:
    mount = cdh_pb2.SecureMountRequest(
        volume_type="block-device",
        options={"sourceType": "empty"},
        flags=["f1"],
        mount_point="/mnt/x",
    )
    messages = {
        "0a146b62733a2f2f2f64656661756c742f6b65792f31": cdh_pb2.GetResourceRequest(
            ResourcePath="kbs:///default/key/1"
        ),
        "0a046b657931": cdh_pb2.GetResourceResponse(Resource=b"key1"),
        "0a0c7365616c65642e612e622e63": cdh_pb2.UnsealSecretInput(secret=b"sealed.a.b.c"),
        "0a20646f636b65722e696f2f6c6962726172792f62757379626f783a6c617465737412062f72756e2f62": (
            cdh_pb2.ImagePullRequest(
                image_url="docker.io/library/busybox:latest", bundle_path="/run/b"
            )
        ),
        "0a0c626c6f636b2d64657669636512130a0a736f75726365547970651205656d7074791a02663122062f6d6e"
        "742f78": mount,
        "0a027b7d": keyprovider_pb2.KeyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=b"{}"
        ),
    }
    for text, message in messages.items():
        assert message.SerializeToString().hex() == text
        assert type(message).FromString(bytes.fromhex(text)) == message


@pytest.mark.spec("confidential-data-hub", 15, 17)
@pytest.mark.spec("ocicrypt", 31)
async def test_ttrpc_refuses_with_the_specified_codes(short_tmp: Path) -> None:
    async with ttrpc(short_tmp) as wire:
        assert await answer(wire, "/api.Nothing/X") == (3, "api.Nothing service does not exist")
        assert await answer(wire, "/api.GetResourceService/X") == (12, "X method")
        assert await answer(wire, WRAP) == (5, f"{WRAP} is not supported")
        path = "/keyprovider.KeyProviderService/UnWrapKey"
        garbage = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=b"garbage"
        )
        text = "[ERROR] UnwrapKey Parse request failed"
        assert await answer(wire, path, garbage.SerializeToString()) == (13, text)
        unknown = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///default/key/2")
        path = "/api.GetResourceService/GetResource"
        text = "[CDH] [ERROR]: Get Resource failed"
        assert await answer(wire, path, unknown.SerializeToString()) == (13, text)
        assert (await answer(wire, path, b"\xff"))[0] == 2


@pytest.mark.spec("confidential-data-hub", 16)
@pytest.mark.spec("ocicrypt", 31)
async def test_wrapping_is_refused_on_both_transports(short_tmp: Path) -> None:
    async with ttrpc(short_tmp) as wire:
        assert await answer(wire, WRAP) == (5, f"{WRAP} is not supported")
    async with serving(GrpcServer(hub_routes(grpc=True), "127.0.0.1:0"), grace=0.1) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:

            async def call(path: str, data: bytes) -> tuple[int, str]:
                send: Any = channel.unary_unary(path)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await send(data, timeout=10)
                return caught.value.code().value[0], caught.value.details() or ""

            assert await call(WRAP_KEY.path, b"") == (12, "WrapKey not implemented.")
            text = (
                "[ERROR] CDH Unwrap Key failed: Illegal UnwrapKey request: "
                "no AnnotationPacket given."
            )
            empty = b'{"keyunwrapparams":{}}'
            data = b"\x0a" + bytes([len(empty)]) + empty
            assert await call(UNWRAP_KEY.path, data) == (13, text)
            unknown = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///default/key/2")
            path = "/api.GetResourceService/GetResource"
            text = "[CDH] [ERROR]: Get Resource failed"
            assert await call(path, unknown.SerializeToString()) == (13, text)
