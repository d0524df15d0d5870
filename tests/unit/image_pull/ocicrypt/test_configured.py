"""Key providers of a configuration file: every way to reach one, and every way that it fails."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from guest.deadline import Deadline
from guest.errors import (
    ConfigError,
    DeniedError,
    GuestError,
    PeerError,
    UnreachableError,
    UnsupportedError,
)
from guest.protos.keyprovider_pb2 import (
    KeyProviderKeyWrapProtocolInput,
    KeyProviderKeyWrapProtocolOutput,
)
from guest.protos.methods import UNWRAP_KEY
from guest.rpc.grpc import GrpcServer
from guest.rpc.method import CallContext, Routes
from guest.secret import Secret
from guest.ttrpc.server import TtrpcServer
from guest_simulator.cert import CertificateAuthority
from image_pull.layers.pipeline import LayerDescriptor
from image_pull.ocicrypt.annotations import KEYS_PREFIX, PUBLIC_OPTIONS
from image_pull.ocicrypt.cipher import LayerEncryptor
from image_pull.ocicrypt.configured import ConfiguredProviders
from image_pull.ocicrypt.decrypt import layer_decryptor
from image_pull.ocicrypt.encrypt import encode_private_options, encode_public_options
from image_pull.ocicrypt.protocol import encode_unwrap_input
from image_pull.ocicrypt.providers import own_entry
from support import tarballs as tb

ECHO = "import sys, json; json.load(sys.stdin); sys.stdout.write(sys.argv[1])"
REQUEST = encode_unwrap_input(b"packet")

Answer = Callable[[bytes], Awaitable[bytes]]


def saying(text: str) -> Answer:
    async def answer(request: bytes) -> bytes:
        assert json.loads(request)["op"] == "keyunwrap"
        return text.encode()

    return answer


def routes_of(answer: Answer) -> Routes:
    async def unwrap(
        request: KeyProviderKeyWrapProtocolInput, context: CallContext
    ) -> KeyProviderKeyWrapProtocolOutput:
        said = await answer(request.KeyProviderKeyWrapProtocolInput)
        return KeyProviderKeyWrapProtocolOutput(KeyProviderKeyWrapProtocolOutput=said)

    routes = Routes()
    routes.bind(UNWRAP_KEY, unwrap)
    return routes


@asynccontextmanager
async def ttrpc(folder: Path, answer: Answer) -> AsyncIterator[dict[str, str]]:
    address = f"unix://{folder}/{len(list(folder.iterdir()))}.sock"
    server = TtrpcServer(routes_of(answer), address)
    await server.bind()
    await server.publish()
    try:
        yield {"ttrpc": address}
    finally:
        await server.drain(0.0)


@asynccontextmanager
async def plain_grpc(answer: Answer) -> AsyncIterator[dict[str, str]]:
    server = GrpcServer(routes_of(answer), "127.0.0.1:0")
    await server.bind()
    await server.publish()
    try:
        yield {"grpc": server.address}
    finally:
        await server.drain(0.0)


@asynccontextmanager
async def tls_grpc(
    folder: Path, answer: Answer, name: str = "127.0.0.1"
) -> AsyncIterator[dict[str, Any]]:
    """A server that demands a client's certificate of the same authority."""
    authority = CertificateAuthority.create()
    mine, theirs = authority.issue(name), authority.issue("client", client=True)
    files = {"root-ca-file": authority.pem, "cert-file": theirs.certificate, "key-file": theirs.key}
    for key, data in files.items():
        (folder / f"{key}.pem").write_bytes(data)

    async def unwrap(request: bytes, context: object) -> bytes:
        parsed = KeyProviderKeyWrapProtocolInput.FromString(request)
        said = await answer(parsed.KeyProviderKeyWrapProtocolInput)
        output = KeyProviderKeyWrapProtocolOutput(KeyProviderKeyWrapProtocolOutput=said)
        return output.SerializeToString()

    handlers: dict[str, Any] = {UNWRAP_KEY.name: grpc.unary_unary_rpc_method_handler(unwrap)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(UNWRAP_KEY.service, handlers),)
    )
    credentials = grpc.ssl_server_credentials(
        [(mine.key, mine.certificate)], authority.pem, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        tls = {key: str(folder / f"{key}.pem") for key in files}
        yield {"grpc": f"127.0.0.1:{port}", "grpc-tls": tls}
    finally:
        await server.stop(0)


def program(text: str) -> dict[str, Any]:
    return {"cmd": {"path": sys.executable, "args": ["-c", ECHO, text]}}


@asynccontextmanager
async def providers(
    folder: Path, content: object, **more: Any
) -> AsyncIterator[ConfiguredProviders]:
    path = folder / "ocicrypt.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    made = ConfiguredProviders(path, **more)
    try:
        yield made
    finally:
        await made.close()


async def asked(made: ConfiguredProviders, seconds: float = 30.0) -> str:
    return (await made.unwrap(REQUEST, Deadline.after(seconds))).reveal().decode()


async def of(folder: Path, *entries: tuple[str, dict[str, Any]]) -> str:
    async with providers(folder, {"key-providers": dict(entries)}) as made:
        return await asked(made)


@pytest.mark.spec("ocicrypt", 36)
async def test_each_way_works_in_its_order_and_a_bad_file_is_an_error(short_tmp: Path) -> None:
    (short_tmp / "tls").mkdir()
    async with AsyncExitStack() as stack:
        over_ttrpc = await stack.enter_async_context(ttrpc(short_tmp, saying("ttrpc")))
        over_grpc = await stack.enter_async_context(plain_grpc(saying("grpc")))
        over_tls = await stack.enter_async_context(tls_grpc(short_tmp / "tls", saying("tls")))
        assert await of(short_tmp, ("a", over_ttrpc)) == "ttrpc"
        assert await of(short_tmp, ("a", over_grpc)) == "grpc"
        assert await of(short_tmp, ("a", over_tls)) == "tls"
        assert await of(short_tmp, ("a", program("cmd"))) == "cmd"
        everything = over_ttrpc | over_grpc | program("cmd") | {"native": "attestation-agent"}
        assert await of(short_tmp, ("a", everything)) == "cmd"
        assert await of(short_tmp, ("a", over_ttrpc | over_grpc)) == "grpc"
        assert await of(short_tmp, ("a", over_ttrpc | {"native": "x"})) == "ttrpc"
    missing = ConfiguredProviders(short_tmp / "none.json")
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        await asked(missing)
    for text in ("", "[]", "{", '{"key-providers":{"a":{"ttrpc":"nonsense"}}}'):
        async with providers(short_tmp, text) as made:
            with pytest.raises(ConfigError, match=r"ocicrypt\.json is no ocicrypt configuration"):
                await asked(made)


async def test_a_file_that_comes_later_is_used_then(short_tmp: Path) -> None:
    path = short_tmp / "later.json"
    made = ConfiguredProviders(path)
    with pytest.raises(ConfigError):
        await asked(made)
    for said in ("one", "two"):
        path.write_text(json.dumps({"key-providers": {"a": program(said)}}))
        assert await asked(made) == said
    path.write_bytes(bytes(2 * 1024 * 1024))
    with pytest.raises(ConfigError):
        await asked(made)


async def test_this_process_is_asked_without_a_connection_and_others_are_asked_all_the_same(
    short_tmp: Path,
) -> None:
    class Own:
        async def unwrap(self, request: bytes, deadline: Deadline) -> Secret:
            return Secret(b"own")

    address = f"unix://{short_tmp}/nobody.sock"
    own = {"own": Own(), "own_address": own_entry(address, grpc=False)}
    content = {"key-providers": {"attestation-agent": {"ttrpc": address}}}
    async with providers(short_tmp, content, **own) as made:
        assert await asked(made) == "own"
    content = {"key-providers": {"attestation-agent": program("elsewhere")}}
    async with providers(short_tmp, content, **own) as made:
        assert await asked(made) == "elsewhere"
    assert own_entry("127.0.0.1:50000", grpc=True) is not None
    assert own_entry("nonsense", grpc=True) is None
    assert own_entry("nonsense://", grpc=False) is None


async def test_coco_s_provider_is_asked_first_and_then_the_others(short_tmp: Path) -> None:
    both = (("other", program("other")), ("attestation-agent", program("coco")))
    assert await of(short_tmp, *both) == "coco"
    gone = {"ttrpc": f"unix://{short_tmp}/nobody.sock"}
    assert await of(short_tmp, ("attestation-agent", gone), both[0]) == "other"


async def test_what_all_said_is_told_and_the_most_telling_class_stays(short_tmp: Path) -> None:
    gone = {"ttrpc": f"unix://{short_tmp}/nobody.sock"}
    fails = {"cmd": {"path": sys.executable, "args": ["-c", "import sys; sys.exit('the safe')"]}}
    with pytest.raises(UnreachableError, match=r"a: .*the safe.*; b: .*nobody\.sock"):
        await of(short_tmp, ("a", fails), ("b", gone))
    with pytest.raises(PeerError, match="exit status"):
        await of(short_tmp, ("a", fails))
    with pytest.raises(UnsupportedError, match="both grpc and runner are NULL"):
        await of(short_tmp, ("a", {"native": "attestation-agent"}))
    with pytest.raises(UnsupportedError, match="names no key provider"):
        await of(short_tmp)

    async def deny(request: bytes) -> bytes:
        raise DeniedError("not for you")

    async with ttrpc(short_tmp, deny) as entry:
        with pytest.raises(GuestError, match="not for you"):
            await of(short_tmp, ("a", entry))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"insecure-skip-verify": True}, UnsupportedError),
        ({"root-ca-file": "/nonexistent"}, ConfigError),
        ({"root-ca-file": ""}, UnreachableError),
        ({"cert-file": "", "key-file": ""}, GuestError),
        ({"server-name": "another.example"}, UnreachableError),
    ],
    ids=str,
)
async def test_a_server_that_is_not_known_for_sure_is_not_asked(
    short_tmp: Path, change: dict[str, object], kind: type[GuestError]
) -> None:
    async with tls_grpc(short_tmp, saying("tls")) as entry:
        entry["grpc-tls"] |= change
        async with providers(short_tmp, {"key-providers": {"a": entry}}) as made:
            with pytest.raises(kind):
                await asked(made, seconds=5.0)


async def test_a_server_under_another_name_is_known_by_the_name_in_the_file(
    short_tmp: Path,
) -> None:
    async with tls_grpc(short_tmp, saying("tls"), "provider.example") as entry:
        entry["grpc-tls"]["server-name"] = "provider.example"
        assert await of(short_tmp, ("a", entry)) == "tls"


def sealed(number: int) -> tuple[dict[str, str], bytes]:
    """Annotations of a layer whose packet is its number, and what the provider answers."""
    key, nonce = Secret(bytes([number]) * 32), bytes(16)
    encryptor = LayerEncryptor(key, nonce)
    encryptor.update(b"layer")
    packet = base64.b64encode(str(number).encode()).decode()
    public = base64.b64encode(encode_public_options(encryptor.finish())).decode()
    options = encode_private_options(key, nonce, "").reveal()
    annotations = {KEYS_PREFIX + "provider.x": packet, PUBLIC_OPTIONS: public}
    return annotations, json.dumps({"keyunwrapresults": {"optsdata": list(options)}}).encode()


@pytest.mark.spec("ocicrypt", 40)
@pytest.mark.parametrize("how", ["ttrpc", "grpc"])
async def test_sixty_four_keys_are_unwrapped_at_once_and_a_slow_one_blocks_nobody(
    short_tmp: Path, how: str
) -> None:
    release, under_way = asyncio.Event(), 0
    layers = [sealed(number) for number in range(64)]
    most = 0

    async def answer(request: bytes) -> bytes:
        nonlocal under_way, most
        packet = base64.b64decode(json.loads(request)["keyunwrapparams"]["annotation"])
        under_way += 1
        most = max(most, under_way)
        if packet == b"7":
            await release.wait()
        await asyncio.sleep(0)
        under_way -= 1
        return layers[int(packet)][1]

    async def unwrap(number: int, made: ConfiguredProviders) -> None:
        descriptor = LayerDescriptor(
            media_type=tb.GZIP + "+encrypted",
            digest=tb.sha256(b""),
            size=0,
            annotations=layers[number][0],
        )
        decryptor = await layer_decryptor(descriptor, keys=made, deadline=Deadline.after(50))
        encrypted = LayerEncryptor(Secret(bytes([number]) * 32), bytes(16)).update(b"layer")
        assert bytes(decryptor.update(encrypted)) == b"layer"
        decryptor.finish()

    async with ttrpc(short_tmp, answer) if how == "ttrpc" else plain_grpc(answer) as entry:
        content = {"key-providers": {"x": entry}}
        async with providers(short_tmp, content) as made, asyncio.TaskGroup() as tasks:
            waiting = [
                tasks.create_task(unwrap(number, made), name=f"unwrap {number}")
                for number in range(64)
            ]
            done, _ = await asyncio.wait(waiting[:7] + waiting[8:])
            assert len(done) == 63
            assert not waiting[7].done()
            release.set()
    assert all(task.exception() is None for task in waiting)
    assert most > 1
