"""The main job, step by step."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.image import Image, Layer, build_image
from guest_simulator.images.layout import write_layout
from guest_simulator.images.rootfs import expected_rootfs
from tools.demo.compare import Comparison, compare
from tools.demo.records import recorded_facts
from tools.demo.screen import Screen
from tools.demo.world import BIN, DemoError, World, service_commands, services, world

PULL_SECONDS: Final = 300.0
"""Seconds the pull may take."""

TOOL_SECONDS: Final = 300.0
"""Seconds one command of the owner may take."""

HTTP_SECONDS: Final = 60.0
"""Seconds one request to the REST shim may take."""

KEK: Final = "kbs:///default/image-kek/demo"
SECRET: Final = "default/database/password"
SECRET_VALUE: Final = b"correct horse battery staple"
REPOSITORY: Final = "demo/app:v1"


async def run(screen: Screen, *, files: int, one_process: bool, keep: bool) -> None:
    """Do it all; `keep` leaves the world running until the process is told to stop.

    Raises:
        DemoError: something was not as it has to be.
    """
    async with AsyncExitStack() as stack:
        with screen.step("A world: key broker (TLS) and registry, on loopback") as notes:
            place = await stack.enter_async_context(world())
            notes.append(f"everything is in {place.directory}")
            notes.append(f"KBS {place.kbs.url}, registry {place.registry.host}")
            place.kbs.put_resource(SECRET, SECRET_VALUE)
        with screen.step("An image from real files") as notes:
            layers = demo_layers(files=files)
            image = await asyncio.to_thread(build_image, layers)
            write_layout(image, place.directory / "layout", "v1")
            notes += _about_image(layers, image)
        with screen.step("Its owner encrypts it, registers the key and pushes it"):
            await _encrypt(screen, place)
            total = _assert_encrypted(place)
        commands = service_commands(place, one_process=one_process)
        with screen.step("The guest's services"):
            for command in commands:
                screen.command(command)
            await stack.enter_async_context(services(place, commands))
        with screen.step("PullImage over the CDH socket, after attestation") as notes:
            digest = await _pull(screen, place, total)
            notes += _about_pull(place, digest)
        with screen.step("The root filesystem, compared with the source file by file") as notes:
            result = await asyncio.to_thread(_compare, place, layers)
            notes += _about_comparison(result)
        with screen.step("What a container sees on 127.0.0.1"):
            await _ask_as_container(screen, place)
        _verdict(screen, place, result, layers)
        if keep:
            _invite(screen, place)
            await asyncio.Event().wait()


def _about_image(layers: list[Layer], image: Image) -> list[str]:
    entries = [entry for layer in layers for entry in layer.entries]
    kinds: dict[str, int] = {}
    for entry in entries:
        name = entry.kind.name.lower().replace("_", " ")
        kinds[name] = kinds.get(name, 0) + 1
    size = sum(len(blob) for blob in image.blobs.values())
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(kinds.items()))
    return [f"{len(layers)} layers, {len(entries):,} entries, {size:,} bytes packed", counts]


async def _encrypt(screen: Screen, place: World) -> None:
    kek = place.directory / "kek"
    kek.touch(0o600)
    kek.write_bytes(await asyncio.to_thread(_random_key))
    parameters = f"keypath={kek}::keyid={KEK}::algorithm=A256GCM"
    command = [
        *("guest", "image", "encrypt"),
        *("--encryption-key", f"provider:attestation-agent:{parameters}"),
        *("--kbs", place.kbs.url, "--kbs-cert", str(place.ca)),
        *("--auth-private-key", str(place.admin_key), "--role", "admin"),
        *("--dest-plain-http", f"oci:{place.directory}/layout:v1"),
        f"docker://{place.registry.host}/{REPOSITORY}",
    ]
    screen.command(command)
    process = await asyncio.create_subprocess_exec(
        str(BIN / command[0]),
        *command[1:],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), TOOL_SECONDS)
    except TimeoutError:
        process.kill()
        raise DemoError(f"encryption took more than {TOOL_SECONDS:.0f} s") from None
    for line in output.decode(errors="replace").splitlines():
        screen.note(line)
    kek.unlink()
    if process.returncode != 0:
        raise DemoError("the image was not encrypted")


def _random_key() -> bytes:
    return Path("/dev/urandom").open("rb").read(32)


def _assert_encrypted(place: World) -> int:
    name, _, tag = REPOSITORY.partition(":")
    _, data = place.registry.get_manifest(name, tag)
    layers = json.loads(data)["layers"]
    if not layers or not all(layer["mediaType"].endswith("+encrypted") for layer in layers):
        raise DemoError("the registry holds a layer that is not encrypted")
    return sum(layer["size"] for layer in layers)


async def _pull(screen: Screen, place: World, total: int) -> str:
    if place.kbs.attestations:
        raise DemoError("the guest attested before anybody asked for a secret")
    channel = TtrpcChannel(f"unix://{place.cdh_socket}")
    request = ImagePullRequest(
        image_url=f"{place.registry.host}/{REPOSITORY}", bundle_path=str(place.bundle)
    )
    before = _sent(place)
    try:
        with screen.bar(total) as bar:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(
                    _watch(lambda: bar.update(_sent(place) - before)), name="progress"
                )
                response = await channel.call(
                    PULL_IMAGE, request, deadline=Deadline.after(PULL_SECONDS)
                )
                watcher.cancel()
            bar.update(total)
    except* GuestError as failures:
        raise DemoError(f"PullImage: {failures.exceptions[0]}") from None
    finally:
        await channel.close()
    return response.manifest_digest


async def _watch(show: Callable[[], None]) -> None:
    while True:
        show()
        await asyncio.sleep(0.05)


def _sent(place: World) -> int:
    return sum(record.sent for record in place.registry.requests.matching("GET", r"/blobs/"))


def _about_pull(place: World, digest: str) -> list[str]:
    name, _, tag = REPOSITORY.partition(":")
    media_type, data = place.registry.get_manifest(name, tag)
    if digest != place.registry.put_manifest(name, tag, media_type, data):
        raise DemoError(f"another manifest was pulled: {digest}")
    if place.kbs.attestations != 1:
        raise DemoError(f"{place.kbs.attestations} attestations for one pull, expected 1")
    keys = place.kbs.requests.count("GET", r"/resource/default/image-kek/demo")
    return [f"manifest {digest}", f"1 attestation, {keys} request for the image's key"]


def _compare(place: World, layers: list[Layer]) -> Comparison:
    expected = expected_rootfs(layers)
    recorded = recorded_facts(
        place.directory / "store", [layer.diff_id for layer in layers], set(expected)
    )
    result = compare(place.bundle / "rootfs", expected, recorded)
    if result.differences:
        shown = "\n    ".join(result.differences[:10])
        raise DemoError(f"{len(result.differences)} differences:\n    {shown}")
    config = json.loads((place.bundle / "config.json").read_text())
    if "process" not in config:
        raise DemoError("the bundle's config.json has no process")
    return result


def _about_comparison(result: Comparison) -> list[str]:
    counts = ", ".join(
        f"{count:,} {kind.name.lower().replace('_', ' ')}"
        for kind, count in sorted(result.counts.items(), key=lambda item: item[0].name)
    )
    where = "on disk" if result.privileged else "with the layers' records (no privilege here)"
    return [
        f"{result.total():,} paths alike, none too many: {counts}",
        f"owners, devices and privileged xattrs compared {where}",
    ]


async def _ask_as_container(screen: Screen, place: World) -> None:
    base = f"http://127.0.0.1:{place.rest_port}"
    secret = await _curl(screen, f"{base}/cdh/resource/{SECRET}")
    if secret != SECRET_VALUE:
        raise DemoError("the secret came out wrong")
    screen.note(f"  {secret.decode()}")
    token = json.loads(await _curl(screen, f"{base}/aa/token?token_type=kbs"))
    if token["token"].count(".") != 2 or "PRIVATE KEY" not in token["tee_keypair"]:
        raise DemoError("that is no token")
    screen.note(f"  token of {len(token['token']):,} characters and the key it is bound to")
    evidence = json.loads(await _curl(screen, f"{base}/aa/evidence?runtime_data=demo"))
    if evidence.get("report_data") != "ZGVtbw==":
        raise DemoError("the evidence does not bind the runtime data")
    screen.note(f"  {json.dumps(evidence)}")
    info = json.loads(await _curl(screen, f"{base}/info"))
    if info.get("tee") != "sample":
        raise DemoError("the guest does not say what it is")
    screen.note(f"  {json.dumps(info)}")


async def _curl(screen: Screen, url: str) -> bytes:
    quoted = f"'{url}'" if "?" in url else url
    screen.command(["curl", "-s", quoted])
    return await asyncio.to_thread(_get, url)


def _get(url: str) -> bytes:
    try:
        with urlopen(Request(url), timeout=HTTP_SECONDS) as answer:
            return bytes(answer.read())
    except OSError as error:
        raise DemoError(f"GET {url}: {error}") from error


def _verdict(screen: Screen, place: World, result: Comparison, layers: list[Layer]) -> None:
    seconds = time.monotonic() - screen.started
    partly = "" if result.privileged else "; owners, devices and privileged xattrs by record only"
    mounted = "overlay mount" if (place.bundle / "rootfs").is_mount() else "unpacked, no mount"
    screen.line()
    screen.verdict(
        f"Proven in {seconds:.0f} s: an encrypted image ({len(layers)} layers) was pulled after "
        f"attestation, all {result.total():,} paths are as built ({mounted}){partly}; a container "
        "read its secret, token and evidence on 127.0.0.1."
    )


def _invite(screen: Screen, place: World) -> None:
    base = f"http://127.0.0.1:{place.rest_port}"
    screen.line()
    screen.line("The world is still running; Ctrl-C ends it and removes all of it. Try:")
    screen.line(f"  curl {base}/cdh/resource/{SECRET}")
    screen.line(f"  curl '{base}/aa/token?token_type=kbs'")
    screen.line(f"  curl '{base}/aa/evidence?runtime_data=hello'")
    screen.line(f"  curl {base}/info")
    screen.line(f"  curl -i {base}/cdh/resource/default/no/such")
    screen.line(f"  curl --unix-socket {place.metrics}/confidential-data-hub.sock http://x/metrics")
    screen.line(f"  ls {place.bundle}/rootfs")
    screen.line(f"  tail -f {place.directory}/*.log")
