"""A pull of an encrypted many-layer image: wall time against its parts and against skopeo + umoci,
and the memory it takes.

The first pull of a data hub pays for imports and attestation, the second one does not: both are
timed. Memory is sampled in pulls of its own, since looking takes a good part of a core.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.place import BIN, Place, connect, running, short_directory, simulator
from bench.row import Row
from bench.stages import layer_cost
from bench.start import pss
from guest.deadline import Deadline
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image
from guest_simulator.images.layout import write_layout

ROUNDS: Final = 5
MEMORY_ROUNDS: Final = 2
FILES: Final = 6000
BIG_FILES: Final = 6
BIG_FILE: Final = 24 << 20
SECONDS: Final = 300.0
MEMORY_BAR: Final = 32.0
LAYERS_IN_FLIGHT: Final = 3
"""The default of `max_concurrent_layer_downloads_per_image`."""


def rows() -> list[Row]:
    """Wall time of the pull as two ratios, and its peak memory per layer in flight."""
    with short_directory() as directory, ExitStack() as stack:
        world = stack.enter_context(simulator())
        image = _image()
        write_layout(image, directory / "layout", "v1")
        _push(world, directory)
        host = world["registry"]
        rule = f'[[image.registry_config.registry]]\nlocation = "{host}"\ninsecure = true\n'
        place = Place(directory=directory, kbs=world["kbs"])
        place.write_configs(rule)
        ours, peer = [], []
        for _ in range(ROUNDS):
            ours.append(_pull(place, host, int(world["pid"])))
            if _have_peer():
                peer.append(_skopeo(host, directory))
        memory = [_pull_watched(place, host) for _ in range(MEMORY_ROUNDS)]
        return _as_rows(ours, memory, _floor(world, host, image, directory), peer)


def _image() -> Image:
    """Layers of real files, and some large ones that compress by half."""
    small = [replace(layer, compression=Compression.GZIP) for layer in demo_layers(files=FILES)]
    noise = os.urandom(BIG_FILE // 2)
    big = [
        Layer(
            entries=(
                Entry(kind=Kind.FILE, path=f"big/{number}", data=noise + bytes(BIG_FILE // 2)),
            )
        )
        for number in range(BIG_FILES)
    ]
    return build_image([*small, *big])


def _push(world: dict[str, str], directory: Path) -> None:
    key = directory / "kek"
    key.write_bytes(os.urandom(32))
    parameters = f"keypath={key}::keyid=kbs:///default/image-kek/bench"
    encrypt = [
        *(str(BIN / "guest"), "image", "encrypt", "--dest-plain-http"),
        *("--encryption-key", f"provider:attestation-agent:{parameters}"),
        *("--kbs", world["kbs"], "--auth-private-key", world["admin_key"], "--role", "admin"),
        *(f"oci:{directory}/layout:v1", f"docker://{world['registry']}/bench/encrypted:v1"),
    ]
    subprocess.run(encrypt, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    # the same content under other layer keys: other blobs, so that nothing is reused
    encrypt[-1] = f"docker://{world['registry']}/bench/encrypted:v2"
    subprocess.run(encrypt, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    if _have_peer():
        copy = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "-q"]
        target = f"docker://{world['registry']}/bench/plain:v1"
        subprocess.run([*copy, f"oci:{directory}/layout:v1", target], check=True, timeout=SECONDS)


def _have_peer() -> bool:
    return bool(shutil.which("skopeo") and shutil.which("umoci"))


@dataclass(frozen=True, slots=True)
class Pull:
    """What a hub's first pull took, and its second, of other blobs.

    Attributes:
        first: wall seconds.
        second: wall seconds.
        registry: its CPU seconds for the first.
    """

    first: float
    second: float
    registry: float


def _pull(place: Place, host: str, registry: int) -> Pull:
    with _hub(place):
        before = _cpu_seconds(registry)
        first = _timed(place, f"{host}/bench/encrypted:v1", "bundle")
        spent = _cpu_seconds(registry) - before
        second = _timed(place, f"{host}/bench/encrypted:v2", "bundle2")
    return Pull(first, second, spent)


def _pull_watched(place: Place, host: str) -> float:
    """Peak MiB above idle of a hub's first pull."""
    with _hub(place) as pid:
        idle = pss(pid)
        with _peak(pid) as peak:
            _timed(place, f"{host}/bench/encrypted:v1", "bundle")
    return max(peak) - idle


@contextmanager
def _hub(place: Place) -> Iterator[int]:
    """Fresh daemons and an empty store; the data hub's process id."""
    _clear(place)
    with ExitStack() as stack:
        log = place.directory / "log"
        aa = stack.enter_context(running(place.aa_command(), log))
        connect(place.aa, aa).close()
        cdh = stack.enter_context(running(place.cdh_command(), log))
        connect(place.cdh, cdh).close()
        yield cdh.pid
        _clear(place, ("bundle", "bundle2"))


def _clear(place: Place, names: tuple[str, ...] = ("bundle", "bundle2", "store")) -> None:
    for name in names:
        _unmount(place.directory / name / "rootfs")
        shutil.rmtree(place.directory / name, ignore_errors=True)


def _timed(place: Place, image: str, bundle: str) -> float:
    started = time.perf_counter()
    asyncio.run(_call(place, image, bundle))
    return time.perf_counter() - started


def _unmount(path: Path) -> None:
    if path.is_mount():
        subprocess.run(["umount", str(path)], check=True)


async def _call(place: Place, image: str, bundle: str) -> None:
    channel = TtrpcChannel(f"unix://{place.cdh}")
    request = ImagePullRequest(image_url=image, bundle_path=str(place.directory / bundle))
    await channel.call(PULL_IMAGE, request, deadline=Deadline.after(SECONDS))
    await channel.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    """Samples the PSS of a process and its descendants every 20 ms while the block runs."""
    samples, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.02):
            samples.append(sum(_pss_or_none(member) for member in _family(pid)))

    sampler = threading.Thread(target=sample, name="pss")
    sampler.start()
    try:
        yield samples
    finally:
        ended.set()
        sampler.join()


def _pss_or_none(pid: int) -> float:
    try:
        return pss(pid)
    except OSError:
        return 0.0


def _family(pid: int) -> list[int]:
    members, wanted = [], [pid]
    while wanted:
        parent = wanted.pop()
        members.append(parent)
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                wanted += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return members


def _floor(
    world: dict[str, str], host: str, image: Image, directory: Path
) -> tuple[float, float, str]:
    """Sum of all stages, the longest layer, and the sum by stage, in CPU seconds."""
    manifest = json.loads(
        subprocess.run(
            ["curl", "-sf", f"{world['registry_url']}/v2/bench/encrypted/manifests/v1"],
            check=True,
            capture_output=True,
            timeout=SECONDS,
        ).stdout
    )
    costs = [
        layer_cost(
            f"{world['registry_url']}/v2/bench/encrypted/blobs/{descriptor['digest']}",
            layer.blob,
            layer.tar,
            directory / "scratch",
        )
        for descriptor, layer in zip(manifest["layers"], image.layers, strict=True)
    ]
    names = costs[0].stages
    parts = ", ".join(f"{name} {sum(c.stages[name] for c in costs):.2f}" for name in names)
    return sum(c.total() for c in costs), max(c.total() for c in costs), parts


def _skopeo(host: str, directory: Path) -> float:
    layout, bundle = directory / "skopeo", directory / "umoci"
    started = time.perf_counter()
    subprocess.run(
        [
            *("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"),
            *(f"docker://{host}/bench/plain:v1", f"oci:{layout}:v1"),
        ],
        check=True,
        timeout=SECONDS,
    )
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    subprocess.run(
        ["umoci", "raw", "unpack", *rootless, "--image", f"{layout}:v1", str(bundle)],
        check=True,
        timeout=SECONDS,
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - started
    shutil.rmtree(layout)
    shutil.rmtree(bundle)
    return wall


def _as_rows(
    ours: list[Pull], memory: list[float], cost: tuple[float, float, str], peer: list[float]
) -> list[Row]:
    floor, longest, parts = cost
    wall, spread = _middle([pull.first for pull in ours])
    second, second_spread = _middle([pull.second for pull in ours])
    registry = statistics.median(pull.registry for pull in ours)
    least = max((floor + registry) / (os.cpu_count() or 1), longest)
    result = [
        Row(
            name="pull of an encrypted image against its stages alone",
            bar=1.4,
            value=wall / least,
            unit="x",
            peer=f"{least:.2f} s (CPU: {parts}, registry {registry:.2f}); {spread}",
        ),
        Row(
            name="the same in a hub that has pulled before",
            bar=1.4,
            value=second / least,
            unit="x",
            peer=f"{least:.2f} s; {second_spread}",
        ),
    ]
    if peer:
        other = statistics.median(peer)
        result.append(
            Row(
                name="pull of an encrypted image against skopeo copy + umoci, unencrypted",
                bar=0.6,
                value=wall / other,
                unit="x",
                peer=f"{other:.2f} s, {min(peer):.2f} to {max(peer):.2f}; {spread}",
            )
        )
    result.append(
        Row(
            name="peak memory of a pull above idle, per layer in flight",
            bar=MEMORY_BAR,
            value=max(memory) / LAYERS_IN_FLIGHT,
            unit="MiB",
            peer=f"none; PSS of CDH and its children, {LAYERS_IN_FLIGHT} layers in flight",
        )
    )
    return result


def _middle(walls: list[float]) -> tuple[float, str]:
    """Median, and it in words with the least and the most."""
    median = statistics.median(walls)
    return median, f"ours {median:.2f} s, {min(walls):.2f} to {max(walls):.2f}"
