"""`cdh-oneshot` as a process: outputs, retries, exit statuses."""

import asyncio
import base64
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from guest_simulator.faults import Fault, kbs_error
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Layer, build_image
from guest_simulator.registry.server import Registry
from support.agents import ROOT
from support.cdh_tools import Done, run_tool, tool_world
from support.sealed_world import load_vectors

V = load_vectors()


async def oneshot(*arguments: object, variables: Mapping[str, str] | None = None) -> Done:
    return await run_tool("oneshot_main", *arguments, variables=variables)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode() + "\n"


async def test_a_resource_is_the_one_line_on_standard_output(short_tmp: Path) -> None:
    async with tool_world(short_tmp) as world:
        names = world.variables | {"RUST_LOG": "trace"}
        done = await oneshot("get-resource", "-r", "kbs:///default/key/1", variables=names)
        assert (done.status, done.out) == (0, b64(b"the secret"))
        assert "the secret" not in done.err
        assert b64(b"the secret").strip() not in done.err


async def test_a_sealed_secret_and_a_wrapped_key_are_opened(short_tmp: Path) -> None:
    sealed, packet = short_tmp / "sealed", short_tmp / "packet"
    sealed.write_text(V["vault_sealed"] + "\n")
    document = json.loads((Path(__file__).parents[2] / "vectors/cdh/packets.json").read_text())
    vector = document["vectors"][0]
    packet.write_text(vector["packet"])
    async with tool_world(short_tmp) as world:
        world.kbs.put_resource("default/signing-key/sealed-secret", V["signing_jwk"].encode())
        world.kbs.put_resource("default/sealed-secret/test", b"the value\n")
        world.kbs.put_resource("default/image-kek/1", bytes.fromhex(vector["kek"]))
        done = await oneshot("unseal-secret", "-s", sealed, variables=world.variables)
        assert (done.status, done.out) == (0, b64(b"the value\n"))
        done = await oneshot("unwrap-key", "--annotation-path", packet, variables=world.variables)
        assert (done.status, done.out) == (0, b64(bytes([76, 69, 75, 33])))


@pytest.mark.parametrize(("retries", "status", "gets"), [(2, 0, 3), (1, 1, 2), (0, 1, 1)])
async def test_a_failing_kbs_is_asked_retry_plus_one_times(
    short_tmp: Path, retries: int, status: int, gets: int
) -> None:
    async with tool_world(short_tmp) as world:
        world.kbs.faults.add(Fault(path=r"/kbs/v0/resource/", status=400, times=2))
        done = await oneshot(
            "-r", retries, "get-resource", "-r", "kbs:///default/key/1", variables=world.variables
        )
        assert done.status == status
        assert world.kbs.requests.count("GET", r"/resource/") == gets


async def test_a_denial_and_a_wrong_uri_are_final_after_one_attempt(short_tmp: Path) -> None:
    async with tool_world(short_tmp) as world:
        denial = kbs_error("PolicyDeny", "Access denied by policy", path="/resource/")
        world.kbs.faults.add(denial)
        for uri, gets in (("kbs:///default/key/1", 1), ("file:///etc/passwd", 1)):
            done = await oneshot("get-resource", "-r", uri, variables=world.variables)
            assert (done.status, done.out) == (1, "")
            assert "cdh-oneshot: Get Resource failed" in done.err
            assert world.kbs.requests.count("GET", r"/resource/") == gets, done.err


async def test_the_file_s_credentials_are_stored_first(short_tmp: Path) -> None:
    async with tool_world(short_tmp) as world:
        path = f"{short_tmp}/rt/kbs/one"
        config = short_tmp / "cdh.toml"
        config.write_text(
            f'[kbc]\nname = "cc_kbc"\nurl = "{world.kbs.url}"\n'
            f'[aa]\naa_socket = "{world.aa_socket}"\n'
            f'[[credentials]]\nresource_uri = "kbs:///default/key/1"\npath = "{path}"\n'
        )
        done = await oneshot(
            "-c", config, "--runtime-dir", f"{short_tmp}/rt", "get-resource",
            "--resource-uri", "kbs:///default/key/1",
        )  # fmt: skip
        assert (done.status, done.out) == (0, b64(b"the secret"))
        assert Path(path).read_bytes() == b"the secret"
        assert not (short_tmp / "rt" / "ocicrypt_config.json").exists()


async def test_failures_are_one_line_and_status_one(short_tmp: Path) -> None:
    storage, packet = short_tmp / "storage", short_tmp / "packet"
    storage.write_text('{"volume_type":"x","options":{},"flags":[],"mount_point":"/m"}')
    packet.write_text("{}")
    for arguments in (
        ("unseal-secret", "-s", short_tmp / "none"),
        ("unwrap-key", "-a", packet),
        ("secure-mount", "-s", storage),
        ("secure-mount", "-s", packet),
        ("pull-image", "-i", "127.0.0.1:9/a:b", "-b", short_tmp / "bundle"),
        ("-c", short_tmp / "none.toml", "get-resource", "-r", "kbs:///a/b/c"),
    ):
        done = await oneshot(*arguments, variables={"AA_SOCKET": f"unix://{short_tmp}/aa"})
        assert (done.status, done.out) == (1, ""), arguments
        assert done.err.splitlines()[-1].startswith("cdh-oneshot: "), done.err


@pytest.mark.parametrize(
    "arguments",
    [(), ("get-resource",), ("-r", "-1", "get-resource", "-r", "x"), ("-r", "x"), ("nothing",)],
)
async def test_a_wrong_command_line_is_status_two(arguments: tuple[str, ...]) -> None:
    assert (await oneshot(*arguments)).status == 2


async def test_an_image_is_pulled_into_a_bundle(short_tmp: Path) -> None:
    """In a directory of the caller's, copied where overlays cannot be mounted, then taken apart."""
    image = build_image([Layer(entries=(Entry(kind=Kind.FILE, path="hello", data=b"hi\n"),))])
    async with Registry() as registry:
        digest = registry.push_image("demo/app:v1", image)
        config = short_tmp / "cdh.json"
        rules = {"registry": [{"location": registry.host, "insecure": True}]}
        table = {"work_dir": f"{short_tmp}/store", "registry_config": rules}
        config.write_text(json.dumps({"kbc": {"name": "offline_fs_kbc"}, "image": table}))
        reference = f"{registry.host}/demo/app:v1"
        done = await oneshot(
            "-c", config, "pull-image", "-i", reference, "-b", short_tmp / "bundle",
            variables={"AA_SOCKET": f"unix://{short_tmp}/no-agent"},
        )  # fmt: skip
    try:
        assert (done.status, done.out) == (0, f"image digest: {digest}\n"), done.err
        assert (short_tmp / "bundle" / "rootfs" / "hello").read_bytes() == b"hi\n"
    finally:
        await undo(short_tmp)


async def undo(folder: Path) -> None:
    """Unmount what root's pull mounted, so that the directory can go."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "image_pull.main", "--work-dir", folder / "store", "--undo",
        "x/y:z", folder / "bundle", cwd=ROOT, stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()
