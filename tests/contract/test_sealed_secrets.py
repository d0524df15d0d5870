"""Sealed secrets against a KBS that checks, through CDH's own socket, from owner to guest."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from cdh.secrets.seal import seal
from cdh.secrets.sealed import VaultSecret
from guest.crypto.es256 import Es256Key
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import cdh_pb2
from guest.protos.methods import UNSEAL_SECRET
from guest.rpc.grpc import GrpcServer
from guest.rpc.method import Channel
from guest.rpc.server import serving
from guest.secret import Secret
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from guest_simulator.faults import kbs_error
from support.cdh_tools import run_tool
from support.hub_world import DIGEST, Agent, Resources, hub_routes
from support.kbs_hub import HubWorld, hub_world
from support.sealed_world import load_vectors

V = load_vectors()
SIGNER = "default/signing-key/sealed-secret"
SECRET = "default/sealed-secret/test"


async def unseal(channel: Channel, text: bytes) -> bytes:
    request = cdh_pb2.UnsealSecretInput(secret=text)
    response = await channel.call(UNSEAL_SECRET, request, deadline=Deadline.after(30))
    return response.plaintext


def provision(world: HubWorld) -> None:
    world.kbs.put_resource(SIGNER, V["signing_jwk"].encode())
    world.kbs.put_resource(SECRET, b"the value\n")


async def test_a_secret_sealed_by_an_owner_opens_over_the_socket(
    short_tmp: Path, tmp_path: Path
) -> None:
    """Every step is a command: key, seal, unseal; the KBS holds the public key and the value."""
    assert (await run_tool("secret_main", "keygen", cwd=tmp_path)).status == 0
    sealed = await run_tool(
        "secret_main", "seal", "--signing-kid", f"kbs:///{SIGNER}",
        "--signing-jwk-path", "sealed-signing-private.json",
        "vault", "-r", f"kbs:///{SECRET}", "-p", "kbs", cwd=tmp_path,
    )  # fmt: skip
    (tmp_path / "sealed").write_text(sealed.out)
    async with hub_world(short_tmp) as world:
        world.kbs.put_resource(SIGNER, (tmp_path / "sealed-signing-public.json").read_bytes())
        world.kbs.put_resource(SECRET, b"the value\n")
        address = f"unix://{world.socket}"
        done = await run_tool(
            "ttrpc_tool_main", "-s", address, "unseal-secret", "-s", tmp_path / "sealed"
        )
        assert (done.status, done.out) == (0, base64.b64encode(b"the value\n").decode() + "\n")
        channel = TtrpcChannel(address)
        try:
            assert await unseal(channel, sealed.out.encode()) == b"the value\n"
        finally:
            await channel.close()
        assert world.agent.tokens == 1


async def test_a_burst_of_secrets_costs_one_attestation(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        provision(world)
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(unseal(world.channel, V["vault_sealed"].encode()))
                for _ in range(50)
            ]
        assert {call.result() for call in calls} == {b"the value\n"}
        assert world.agent.tokens == 1


@pytest.mark.parametrize("missing", [SIGNER, SECRET])
async def test_what_the_kbs_does_not_give_does_not_open(short_tmp: Path, missing: str) -> None:
    async with hub_world(short_tmp) as world:
        provision(world)
        world.kbs.faults.add(kbs_error("PolicyDeny", "Access denied by policy", path=missing))
        with pytest.raises(GuestError, match=r"^\[CDH\] \[ERROR\]: Unseal Secret failed"):
            await unseal(world.channel, V["vault_sealed"].encode())


async def test_a_secret_of_another_signer_makes_no_request_for_the_value(short_tmp: Path) -> None:
    async with hub_world(short_tmp) as world:
        provision(world)
        with pytest.raises(GuestError, match=r"^\[CDH\] \[ERROR\]: Unseal Secret failed"):
            await unseal(world.channel, V["kata_test"].encode())
        assert world.kbs.requests.count("GET", SIGNER) == 1
        assert world.kbs.requests.count("GET", SECRET) == 0


async def test_the_switch_of_the_configuration_opens_unsigned_secrets(short_tmp: Path) -> None:
    tables: dict[str, object] = {"skip_sealed_secret_verification": True}
    async with hub_world(short_tmp, tables=tables) as world:
        provision(world)
        assert await unseal(world.channel, V["vault_unsigned"].encode()) == b"the value\n"
        assert world.kbs.requests.count("GET", SIGNER) == 0


async def test_a_key_file_below_the_runtime_directory_verifies(short_tmp: Path) -> None:
    """Provisioned by CDH itself before it answers, as the documentation of upstream promises."""
    path = short_tmp / "rt" / "sealed-secret" / "sealed-signing"
    credential = {"resource_uri": "kbs:///default/signer/1", "path": str(path)}
    tables: dict[str, object] = {"credentials": [credential]}
    async with hub_world(short_tmp, wait=False, tables=tables) as world:
        provision(world)
        world.kbs.put_resource("default/signer/1", V["signing_jwk"].encode())
        world.agent.gate.set()
        while not world.socket.exists():
            await asyncio.sleep(0.01)
        pointer = VaultSecret(name=f"kbs:///{SECRET}", provider="kbs")
        key = Es256Key.from_jwk(Secret(V["signing_jwk"].encode()))
        assert await unseal(world.channel, seal(pointer, "sealed-signing", key)) == b"the value\n"
        assert world.kbs.requests.count("GET", SIGNER) == 0


async def test_the_ttrpc_client_makes_every_call(short_tmp: Path) -> None:
    storage = short_tmp / "storage"
    storage.write_text('{"volume_type":"x","options":{"a":"b"},"flags":[],"mount_point":"/m"}')
    async with hub_world(short_tmp) as world:
        flags = ("--socket", f"unix://{world.socket}", "-t", 20)
        done = await run_tool(
            "ttrpc_tool_main", *flags, "get-resource", "-r", "kbs:///default/key/1"
        )
        assert (done.status, done.out) == (0, base64.b64encode(b"the secret").decode() + "\n")
        done = await run_tool(
            "ttrpc_tool_main", *flags, "get-resource", "-r", "kbs:///default/no/1"
        )
        assert (done.status, done.out) == (1, "")
        assert "request to CDH: [CDH] [ERROR]: Get Resource failed" in done.err
        done = await run_tool("ttrpc_tool_main", *flags, "secure-mount", "-s", storage)
        assert (done.status, "Secure Mount failed" in done.err) == (1, True)
        pull = ("pull-image", "-i", "", "-b", "/run/none")
        done = await run_tool("ttrpc_tool_main", *flags, *pull)
        assert (done.status, "Image Pull error" in done.err) == (1, True)


async def test_the_ttrpc_client_prints_the_answer_s_text_form(short_tmp: Path) -> None:
    address = f"unix://{short_tmp}/cdh.sock"
    async with serving(TtrpcServer(hub_routes(agent=Agent().channel), address)):
        done = await run_tool(
            "ttrpc_tool_main", "-s", address, "pull-image", "-i", "busybox", "-b", "/run/b"
        )
    assert (done.status, done.out) == (0, f'Image pulled: manifest_digest: "{DIGEST}"\n')


@pytest.mark.parametrize("entry", ["ttrpc_tool_main", "grpc_tool_main"])
async def test_nobody_listening_is_one_line_and_status_one(short_tmp: Path, entry: str) -> None:
    address = f"unix://{short_tmp}/none" if entry == "ttrpc_tool_main" else "http://127.0.0.1:1"
    done = await run_tool(entry, "-s", address, "get-resource", "-r", "kbs:///a/b/c")
    assert (done.status, done.out) == (1, "")
    assert "request to CDH: " in done.err


async def test_the_grpc_client_makes_its_calls(short_tmp: Path) -> None:
    packets = json.loads((Path(__file__).parents[1] / "vectors/cdh/packets.json").read_text())
    packet = packets["vectors"][0]["packet"]
    wrapped = base64.b64encode(packet.encode()).decode()
    annotation = short_tmp / "input"
    annotation.write_text(json.dumps({"keyunwrapparams": {"annotation": wrapped}}))
    resources = Resources()
    resources.resources = {
        **resources.resources,
        SIGNER: V["signing_jwk"].encode(),
        SECRET: b"the value\n",
    }
    sealed = short_tmp / "sealed"
    sealed.write_text(V["vault_sealed"])
    server = GrpcServer(hub_routes(resources, agent=Agent().channel, grpc=True), "127.0.0.1:0")
    async with serving(server):
        flags = ("-s", f"http://localhost:{server.address.rpartition(':')[2]}")
        done = await run_tool("grpc_tool_main", *flags, "unseal-secret", "-s", sealed)
        assert (done.status, done.out) == (0, base64.b64encode(b"the value\n").decode() + "\n")
        done = await run_tool("grpc_tool_main", *flags, "unwrap-key", "-a", annotation)
        output = json.loads(base64.b64decode(done.out))
        assert output == {"keyunwrapresults": {"optsdata": [76, 69, 75, 33]}}
        done = await run_tool("grpc_tool_main", *flags, "pull-image", "-i", "a", "-b", "/b")
        assert done.status == 2
