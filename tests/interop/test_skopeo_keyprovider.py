"""Key providers with a real skopeo: it wraps with our `coco_keyprovider`, the guest unwraps.

Needs a skopeo that knows key providers; where none can be had the tests say why and are skipped.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import pytest

from cdh.hub import DataHub
from cdh.keyprovider.packet import AnnotationPacket
from cdh.keyprovider.unwrap import LayerKeys
from cdh.kms.base import Decrypter
from cdh.rpc import DataHubEdge
from guest.cli import main
from guest.config import decode_config
from guest.deadline import Deadline
from guest.errors import NotFoundError
from guest.resource_uri import ResourceUri
from guest.rpc.grpc import GrpcServer
from guest.rpc.server import serving
from guest.secret import Secret
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image
from guest_simulator.images.layout import write_layout
from guest_simulator.kbs.server import Kbs
from guest_simulator.kbs.store import DirectoryStore
from guest_simulator.registry.server import Registry
from image_pull.component import build_puller
from image_pull.config import ImageConfig
from support.encrypted import decrypted_layers, layout_blob, layout_root
from support.gates import why_not
from support.newer_skopeo import newer_skopeo
from support.pulling import insecure

SECONDS = 60.0
CANNOT_PULL = why_not("mount") if os.geteuid() == 0 else None
"""A pull as root mounts; any other unpacks into the bundle."""

KID = "kbs:///default/key/1"
PROVIDER = "org.opencontainers.image.enc.keys.provider.attestation-agent"
ADMIN_PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""


@pytest.fixture(scope="module", autouse=True)
def skopeo_command() -> tuple[str, ...]:
    found = newer_skopeo()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def image() -> Image:
    return build_image(
        [
            Layer(
                entries=(Entry(kind=Kind.FILE, path=name, data=name.encode() * 5000),),
                compression=compression,
            )
            for name, compression in (("a", Compression.GZIP), ("b", Compression.ZSTD))
        ]
    )


class Stored:
    """KEKs as the guest gets them: from what was registered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.store = DirectoryStore(folder)
        self.fetched = 0

    async def fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        self.fetched += 1
        found = self.store.find(uri.path)
        if found is None:
            raise NotFoundError(f"no {uri}")
        return Secret(found)

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        pass

    def keys(self) -> LayerKeys:
        return LayerKeys(self, no_kms)


class NoResources:
    async def fetch(self, uri: str, deadline: Deadline) -> Secret:
        raise NotFoundError(f"no {uri}")


class OnlyKeys:
    """The part of a data hub that unwraps."""

    def __init__(self, keys: LayerKeys) -> None:
        self.unwrap_key = keys.unwrap_packet


def no_kms(packet: AnnotationPacket) -> Decrypter:
    raise AssertionError(packet)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "resources")


@pytest.fixture
def kek(tmp_path: Path, stored: Stored) -> Path:
    """A KEK that the owner has in a file and that the KBS has, too."""
    path = tmp_path / "kek"
    path.write_bytes(os.urandom(32))
    stored.store.put("default/key/1", path.read_bytes())
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def coco_keyprovider(repository: Path, *arguments: str) -> Iterator[str]:
    """The command as a process; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    script = (
        f"import sys; sys.path.insert(0, {str(repository)!r}); "
        "from cdh.keyprovider.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", script, "--socket", address, *arguments],
        stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        lines = ""
        while " ready" not in lines:
            line = process.stderr.readline()
            assert line, lines
            lines += line
        yield address
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.communicate()


class Skopeo:
    """skopeo with one configured provider."""

    def __init__(self, command: tuple[str, ...], folder: Path, address: str) -> None:
        self._command = command
        config = folder / f"ocicrypt-{address.rpartition(':')[2]}.conf"
        entry = {"attestation-agent": {"grpc": address}}
        config.write_text(json.dumps({"key-providers": entry}))
        self._environment = dict(os.environ, OCICRYPT_KEYPROVIDER_CONFIG=str(config))

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Copy; exit status and what was said."""
        process = await asyncio.create_subprocess_exec(
            *self._command, "--insecure-policy", "copy", *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self._environment,
        )  # fmt: skip
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    async def copy(self, *arguments: str) -> None:
        """Copy; must succeed."""
        status, output = await self.run(*arguments)
        assert status == 0, output


@asynccontextmanager
async def data_hub(stored: Stored) -> AsyncIterator[str]:
    """What a guest's CDH answers to `UnWrapKey`, over gRPC."""
    hub = cast(DataHub, OnlyKeys(stored.keys()))
    server = GrpcServer(DataHubEdge(hub, grpc=True).routes(), "127.0.0.1:0")
    async with serving(server):
        yield server.address


@pytest.mark.spec("protos", 17)
@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
async def test_the_guest_decrypts_what_skopeo_wrapped_with_our_provider(
    algorithm: str,
    skopeo_command: tuple[str, ...],
    repository: Path,
    tmp_path: Path,
    image: Image,
    stored: Stored,
    kek: Path,
) -> None:
    write_layout(image, tmp_path / "in", "v1")
    with coco_keyprovider(repository) as address:
        await Skopeo(skopeo_command, tmp_path, address).copy(
            f"oci:{tmp_path}/in:v1",
            f"oci:{tmp_path}/secret:v1",
            "--encryption-key",
            f"provider:attestation-agent:keypath={kek}::keyid={KID}::algorithm={algorithm}",
        )
    manifest = layout_root(tmp_path / "secret", "v1")
    found = await decrypted_layers(manifest, layout_blob(tmp_path / "secret"), keys=stored.keys())
    assert found == [layer.blob for layer in image.layers]


async def test_a_key_that_the_provider_made_is_registered_and_opens_the_image(
    skopeo_command: tuple[str, ...],
    repository: Path,
    tmp_path: Path,
    image: Image,
    stored: Stored,
) -> None:
    write_layout(image, tmp_path / "in", "v1")
    admin = tmp_path / "admin.pem"
    admin.write_text(ADMIN_PEM)
    async with Kbs(resources=tmp_path / "resources") as kbs:
        with coco_keyprovider(
            repository, "--kbs", kbs.url, "-a", str(admin), "--role", "admin"
        ) as address:
            await Skopeo(skopeo_command, tmp_path, address).copy(
                f"oci:{tmp_path}/in:v1",
                f"oci:{tmp_path}/secret:v1",
                "--encryption-key",
                f"provider:attestation-agent:keyid={KID}",
            )
        assert kbs.requests.count("POST", "/resource/default/key/1") == 1
    manifest = layout_root(tmp_path / "secret", "v1")
    found = await decrypted_layers(manifest, layout_blob(tmp_path / "secret"), keys=stored.keys())
    assert found == [layer.blob for layer in image.layers]


@pytest.mark.spec("ocicrypt", 18)
async def test_each_decrypts_what_the_other_encrypted_with_jwe_and_with_a_provider(
    skopeo_command: tuple[str, ...],
    repository: Path,
    tmp_path: Path,
    image: Image,
    stored: Stored,
    kek: Path,
) -> None:
    write_layout(image, tmp_path / "in", "v1")
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    for command in (
        ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private),
        ("pkey", "-in", private, "-pubout", "-out", public),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=SECONDS)
    recipients = (
        "--encryption-key", f"jwe:{public}",
        "--encryption-key", f"provider:attestation-agent:keypath={kek}::keyid={KID}",
    )  # fmt: skip
    plain = [layer.blob for layer in image.layers]
    before = json.loads(image.manifest)["layers"]
    words = ["image", "encrypt", "-q", f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/ours:v1"]
    with coco_keyprovider(repository) as address:
        skopeo = Skopeo(skopeo_command, tmp_path, address)
        await skopeo.copy(f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/theirs:v1", *recipients)
    assert await asyncio.to_thread(main, [*words, *recipients]) == 0
    for name in ("theirs", "ours"):
        manifest = layout_root(tmp_path / name, "v1")
        read = layout_blob(tmp_path / name)
        assert await decrypted_layers(manifest, read, keys=stored.keys()) == plain
        by_key = await decrypted_layers(manifest, read, private_keys=[private.read_bytes()])
        assert by_key == plain
        out = tmp_path / f"{name}-jwe"
        await skopeo.copy(
            f"oci:{tmp_path}/{name}:v1", f"oci:{out}:v1", "--decryption-key", str(private)
        )
        assert layout_root(out, "v1")["layers"] == before
        async with data_hub(stored) as hub:
            out = tmp_path / f"{name}-provider"
            await Skopeo(skopeo_command, tmp_path, hub).copy(
                f"oci:{tmp_path}/{name}:v1", f"oci:{out}:v1",
                "--decryption-key", "provider:attestation-agent:any",
            )  # fmt: skip
        assert layout_root(out, "v1")["layers"] == before


async def test_skopeo_shows_what_the_provider_refuses(
    skopeo_command: tuple[str, ...], repository: Path, tmp_path: Path, image: Image
) -> None:
    write_layout(image, tmp_path / "in", "v1")
    arguments = (f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/out:v1", "--encryption-key")
    with coco_keyprovider(repository) as address:
        skopeo = Skopeo(skopeo_command, tmp_path, address)
        status, said = await skopeo.run(*arguments, "provider:attestation-agent")
        assert status == 1
        assert "code = Internal desc = encrypt failed: a random KEK would be lost" in said
        status, said = await skopeo.run(*arguments, "provider:other")
        assert status == 1
        assert "no wrapped keys produced by encryption" in said
    status, said = await skopeo.run(*arguments, "provider:attestation-agent")
    assert status == 1
    assert "code = Unavailable" in said
    assert not (tmp_path / "out" / "index.json").exists() or not json.loads(
        (tmp_path / "out" / "index.json").read_bytes()
    ).get("manifests")


async def test_the_provider_refuses_to_unwrap_for_skopeo(
    skopeo_command: tuple[str, ...], repository: Path, tmp_path: Path, image: Image, kek: Path
) -> None:
    write_layout(image, tmp_path / "in", "v1")
    with coco_keyprovider(repository) as address:
        skopeo = Skopeo(skopeo_command, tmp_path, address)
        await skopeo.copy(
            f"oci:{tmp_path}/in:v1", f"oci:{tmp_path}/secret:v1", "--encryption-key",
            f"provider:attestation-agent:keypath={kek}::keyid={KID}",
        )  # fmt: skip
        status, said = await skopeo.run(
            f"oci:{tmp_path}/secret:v1", f"oci:{tmp_path}/out:v1",
            "--decryption-key", "provider:attestation-agent:any",
        )  # fmt: skip
    assert status == 1
    assert "UnWrapKey API of sample-kbs is unimplemented!" in said


@pytest.mark.skipif(CANNOT_PULL is not None, reason=str(CANNOT_PULL))
async def test_an_image_that_skopeo_pushed_encrypted_is_pulled_by_the_guest(
    skopeo_command: tuple[str, ...],
    repository: Path,
    tmp_path: Path,
    image: Image,
    stored: Stored,
    kek: Path,
) -> None:
    write_layout(image, tmp_path / "in", "v1")
    async with Registry() as registry:
        with coco_keyprovider(repository) as address:
            await Skopeo(skopeo_command, tmp_path, address).copy(
                "--dest-tls-verify=false",
                f"oci:{tmp_path}/in:v1",
                f"docker://{registry.host}/demo/secret:v1",
                "--encryption-key",
                f"provider:attestation-agent:keypath={kek}::keyid={KID}",
            )
        settings = {"work_dir": str(tmp_path / "work"), "registry_config": insecure(registry.host)}
        config = decode_config(json.dumps(settings).encode(), "image.json", ImageConfig)
        keys = stored.keys()
        puller = build_puller(config, resources=NoResources(), keys=keys)
        bundle = tmp_path / "bundle"
        try:
            async with keys.kept():
                reference = f"{registry.host}/demo/secret:v1"
                await puller.pull(reference, bundle, deadline=Deadline.after(SECONDS))
            assert (bundle / "rootfs" / "a").read_bytes() == b"a" * 5000
            assert (bundle / "rootfs" / "b").read_bytes() == b"b" * 5000
            assert stored.fetched == 1
        finally:
            await puller.discard(bundle)
            await puller.close()
