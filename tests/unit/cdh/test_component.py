"""The service from start to end: what is stored before it appears, what it serves, how it ends."""

import asyncio
import base64
import json
import socket
from pathlib import Path

import pytest

from cdh.component import ConfidentialDataHub
from cdh.config import AaConfig, CdhConfig, Credential, KbcConfig
from guest.deadline import Deadline
from guest.errors import ConfigError, GuestError, PlatformError, UnavailableError
from guest.protos import cdh_pb2, keyprovider_pb2
from guest.protos.methods import GET_RESOURCE, PULL_IMAGE, UNWRAP_KEY
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import Routes
from guest.rpc.server import Server
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from guest_simulator.faults import Fault
from support.hub_world import FakePuller, UnreachableAgent
from support.kbs_hub import hub_world


def credential(base: Path, name: str = "kbs/x", uri: str = "kbs:///default/key/1") -> object:
    return {"resource_uri": uri, "path": f"{base}/rt/{name}"}


@pytest.mark.spec("confidential-data-hub", 10)
async def test_the_socket_appears_when_the_credentials_are_stored(short_tmp: Path) -> None:
    stale = short_tmp / "new" / "cdh.sock"
    tables: dict[str, object] = {"credentials": [credential(short_tmp)]}
    async with hub_world(short_tmp, wait=False, tables=tables) as world:
        stored = short_tmp / "rt" / "kbs" / "x"
        while not stale.parent.exists():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert not world.socket.exists()
        assert not stored.exists()
        world.agent.gate.set()
        while not world.socket.exists():
            await asyncio.sleep(0.001)
        assert stored.read_bytes() == b"the secret"
        channel = TtrpcChannel(f"unix://{world.socket}")
        request = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///default/key/1")
        response = await channel.call(GET_RESOURCE, request, deadline=Deadline.after(10))
        assert response.Resource == b"the secret"
        await channel.close()
    assert not world.socket.exists()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(stale))
    async with hub_world(short_tmp) as world:
        assert await world.get() == b"the secret"


@pytest.mark.parametrize("uri", ["kbs:///default/key/2", "kbs:///default/key/1"])
async def test_without_its_credentials_it_does_not_appear(short_tmp: Path, uri: str) -> None:
    name = "kbs/x"
    if uri.endswith("1"):
        (short_tmp / "rt").mkdir()
        (short_tmp / "rt" / "kbs").symlink_to(short_tmp)
    tables: dict[str, object] = {"credentials": [credential(short_tmp, name, uri)]}
    with pytest.raises(ExceptionGroup) as caught:
        async with hub_world(short_tmp, tables=tables) as world:
            pytest.fail(f"{world.socket} appeared")
    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigError if uri.endswith("2") else PlatformError)
    assert list((short_tmp / "new").iterdir()) == []


class NoServer:
    """Notes what is asked of it."""

    address = "nowhere"

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def bind(self) -> None:
        self.notes.append("bind")

    async def publish(self) -> None:
        self.notes.append("publish")

    async def drain(self, grace: float = 5.0) -> None:
        self.notes.append("drain")


def make_hub(config: CdhConfig, runtime_dir: Path, server: Server | None = None) -> object:
    def open_server(routes: Routes) -> Server:
        return server or NoServer()

    agent = UnreachableAgent("unix:///nowhere")
    return ConfidentialDataHub(config, agent, open_server, runtime_dir=runtime_dir)  # type: ignore[arg-type]  # a fake has no generics


@pytest.mark.spec("confidential-data-hub", 9)
@pytest.mark.parametrize("name", ["x", "kbs/../x", "kbsX/y", "other/x", "../x"])
def test_an_illegal_path_ends_the_start_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    entry = Credential(resource_uri="kbs:///a/b/c", path=f"{tmp_path}/{name}")
    config = CdhConfig(kbc=KbcConfig(name="cc_kbc"), credentials=(entry,))
    with pytest.raises(ConfigError, match="init Hub failed: illegal path to put credential : "):
        make_hub(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kbc", "key"),
    [
        (KbcConfig(name="cc_kbc", url="nope"), "kbc.url 'nope'"),
        (
            KbcConfig(name="cc_kbc", url="http://h", fallback_urls=("http://i", "i:1")),
            "kbc.fallback_urls\\[1\\] 'i:1'",
        ),
    ],
)
def test_an_address_that_can_never_be_reached_ends_the_start(
    kbc: KbcConfig, key: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is not an http or https URL$"):
        make_hub(CdhConfig(kbc=kbc), tmp_path)


@pytest.mark.parametrize(
    "kbc",
    [KbcConfig(name="offline_fs_kbc", url="null"), KbcConfig(name="cc_kbc")],
    ids=["of nobody", "none"],
)
def test_an_address_of_nobody_does_not_end_the_start(kbc: KbcConfig, tmp_path: Path) -> None:
    make_hub(CdhConfig(kbc=kbc), tmp_path)


@pytest.mark.parametrize("required", [False, True])
async def test_a_pull_without_an_agent_fails_where_pulls_require_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    puller = FakePuller()
    monkeypatch.setattr("cdh.pulling._import_puller", lambda: lambda *_: puller)
    aa = AaConfig(required_by_pulls=required)
    hub = make_hub(CdhConfig(kbc=KbcConfig(name="offline_fs_kbc"), aa=aa), tmp_path)
    channel = InProcessChannel(hub.routes)  # type: ignore[attr-defined]  # made as an object
    request = cdh_pb2.ImagePullRequest(image_url="busybox", bundle_path="/run/b")
    if required:
        with pytest.raises(UnavailableError, match="failed to connect to attestation agent: "):
            await channel.call(PULL_IMAGE, request, deadline=Deadline.after(5))
    else:
        await channel.call(PULL_IMAGE, request, deadline=Deadline.after(5))
    assert puller.discarded == [Path("/run/b")] * required
    await channel.close()


async def run_briefly(hub: object) -> None:
    assert isinstance(hub, ConfidentialDataHub)
    stop = asyncio.Event()
    await hub.run(ready=stop.set, stop=stop)


@pytest.mark.spec("confidential-data-hub", 13)
@pytest.mark.spec("ocicrypt", 37)
async def test_the_key_provider_s_file_is_written_unless_another_one_is_named(
    tmp_path: Path,
) -> None:
    config = CdhConfig(kbc=KbcConfig(name="offline_fs_kbc"), socket="unix:///run/x.sock")
    await run_briefly(make_hub(config, tmp_path / "a"))
    written = (tmp_path / "a" / "ocicrypt_config.json").read_bytes()
    expected = b'{"key-providers":{"attestation-agent":{"ttrpc":"unix:///run/x.sock"}}}'
    assert written == expected
    named = tmp_path / "own.json"
    named.write_bytes(b"own")
    config = CdhConfig(kbc=KbcConfig(name="offline_fs_kbc"), ocicrypt_keyprovider_config=str(named))
    await run_briefly(make_hub(config, tmp_path / "b"))
    assert named.read_bytes() == b"own"
    assert not (tmp_path / "b").exists()


async def test_a_key_provider_s_file_that_cannot_be_written_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = NoServer()
    hub = make_hub(CdhConfig(kbc=KbcConfig(name="offline_fs_kbc")), tmp_path / "file", server)
    with pytest.raises(PlatformError, match="init Hub failed: set configuration envs: "):
        await run_briefly(hub)
    assert "publish" not in server.notes
    assert "drain" in server.notes


@pytest.mark.spec("confidential-data-hub", 33)
async def test_offline_resources_are_served_and_malformed_files_are_told_apart(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    first.write_text(json.dumps({"default/key/1": "b2xk", "a/b/c": "AA=="}))
    second.write_text(json.dumps({"default/key/1": "a2V5MQ=="}))
    kbc = KbcConfig(name="offline_fs_kbc", offline_files=(str(first), str(second)))
    hub = make_hub(CdhConfig(kbc=kbc), tmp_path)
    assert isinstance(hub, ConfidentialDataHub)
    channel = InProcessChannel(hub.routes)

    async def get(uri: str) -> bytes:
        request = cdh_pb2.GetResourceRequest(ResourcePath=uri)
        return (await channel.call(GET_RESOURCE, request, deadline=Deadline.after(5))).Resource

    assert (await get("kbs:///default/key/1")).hex() == "6b657931"
    assert await get("kbs://host/a/b/c") == b"\0"
    second.write_text('{"default/key/1": "?"}')
    with pytest.raises(GuestError, match=r"^\[CDH\] \[ERROR\]: kbs client initialization failed"):
        await get("kbs:///default/key/1")
    await channel.close()


async def test_an_agent_that_is_not_there_has_the_text_of_a_failed_initialisation(
    short_tmp: Path,
) -> None:
    config = CdhConfig(
        kbc=KbcConfig(name="cc_kbc", url="http://127.0.0.1:1"), aa=AaConfig(aa_socket="unix:///n")
    )

    def open_server(routes: Routes) -> Server:
        return TtrpcServer(routes, f"unix://{short_tmp}/cdh.sock")

    aa = TtrpcChannel(f"unix://{short_tmp}/aa.sock")
    hub = ConfidentialDataHub(config, aa, open_server, runtime_dir=short_tmp)
    channel = InProcessChannel(hub.routes)
    request = cdh_pb2.GetResourceRequest(ResourcePath="kbs:///default/key/1")
    with pytest.raises(UnavailableError, match="kbs client initialization failed"):
        await channel.call(GET_RESOURCE, request, deadline=Deadline.after(10))
    await channel.close()
    await aa.close()


async def test_a_stop_while_credentials_are_awaited_ends_it_unseen(short_tmp: Path) -> None:
    tables: dict[str, object] = {"credentials": [credential(short_tmp)]}
    async with hub_world(short_tmp, wait=False, tables=tables) as world:
        while not world.socket.parent.exists():
            await asyncio.sleep(0.001)
    assert list(world.socket.parent.iterdir()) == []
    assert world.agent.tokens == 0


@pytest.mark.spec("confidential-data-hub", 60)
@pytest.mark.spec("ocicrypt", 43)
async def test_no_secret_token_or_key_reaches_the_log(
    short_tmp: Path, caplog: pytest.LogCaptureFixture, vectors: Path
) -> None:
    caplog.set_level(1)
    document = json.loads((vectors / "cdh" / "packets.json").read_text())
    vector = document["vectors"][4]
    tables: dict[str, object] = {"credentials": [credential(short_tmp)]}
    async with hub_world(short_tmp, tables=tables) as world:
        kek = bytes.fromhex(vector["kek"])
        world.kbs.put_resource("default/key/1", kek)
        assert await world.get() == kek
        packet = base64.b64encode(vector["packet"].encode()).decode()
        data = json.dumps({"keyunwrapparams": {"annotation": packet}}).encode()
        request = keyprovider_pb2.KeyProviderKeyWrapProtocolInput(
            KeyProviderKeyWrapProtocolInput=data
        )
        deadline = Deadline.after(10)
        response = await world.channel.call(UNWRAP_KEY, request, deadline=deadline)
        numbers = json.loads(response.KeyProviderKeyWrapProtocolOutput)
        assert bytes(numbers["keyunwrapresults"]["optsdata"]).decode() == vector["plaintext"]
        world.kbs.faults.add(Fault(path="/resource/", status=500, body=kek))
        with pytest.raises(GuestError):
            await world.get(seconds=2)
        (record, *_) = world.kbs.requests.matching(path="/resource/")
        token = record.headers["authorization"].removeprefix("Bearer ")
    shown = "".join(str(vars(record)) for record in caplog.records)
    options = json.loads(vector["plaintext"])
    secrets = ("the secret", repr(kek), kek.hex(), options["symkey"], token, token[-40:])
    assert "PRIVATE KEY" not in shown
    assert not [secret for secret in secrets if secret in shown]
