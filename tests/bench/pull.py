"""A pull of an encrypted many-layer image: wall time against its parts and against skopeo + umoci,
and the memory it takes.

The first pull of a data hub pays for attestation and the unpack server, the second one does not,
and one as soon as the hub listens pays for imports besides: all are timed. Memory is sampled in
pulls of its own, since looking takes a good part of a core.
"""

import json
import os
import statistics
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.hub import (
    BUNDLES,
    LAYERS_IN_FLIGHT,
    SECONDS,
    encrypt_command,
    have_peer,
    hub,
    peak_of_pull,
    peer_pull,
    pull,
    push_plain,
)
from bench.place import Place, short_directory, simulator
from bench.row import Row
from bench.stages import layer_cost
from guest_simulator.images.demo import demo_layers
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Image, Layer, build_image
from guest_simulator.images.layout import write_layout

ROUNDS: Final = 5
MEMORY_ROUNDS: Final = 2
FILES: Final = 6000
BIG_FILES: Final = 6
BIG_FILE: Final = 24 << 20
MEMORY_BAR: Final = 32.0


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
        ours, peer, at_once = [], [], []
        for _ in range(ROUNDS):
            ours.append(_pull(place, host, int(world["pid"])))
            with hub(place, idle=False) as pid:
                image_name = f"{host}/bench/encrypted:v1"
                at_once.append(pull(place, image_name, BUNDLES[0], pid, int(world["pid"])).wall)
            if have_peer():
                with peer_pull(f"{host}/bench/plain:v1", directory) as (wall, _):
                    peer.append(wall)
        name = f"{host}/bench/encrypted:v1"
        memory = [peak_of_pull(place, name) for _ in range(MEMORY_ROUNDS)]
        return _as_rows(ours, at_once, memory, _floor(world, image, directory), peer)


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
    layout = f"oci:{directory}/layout:v1"
    # twice the same content under other layer keys: other blobs, so that nothing is reused
    for tag in ("v1", "v2"):
        encrypt_command(world, directory / "kek", layout, f"bench/encrypted:{tag}")
    if have_peer():
        push_plain(world["registry"], layout, "bench/plain:v1")


def _pull(place: Place, host: str, registry: int) -> tuple[float, float, float]:
    """Wall seconds of a hub's first pull, its second, and the registry's CPU for the first."""
    with hub(place) as pid:
        first = pull(place, f"{host}/bench/encrypted:v1", BUNDLES[0], pid, registry)
        second = pull(place, f"{host}/bench/encrypted:v2", BUNDLES[1], pid, registry)
    return first.wall, second.wall, first.registry


def _floor(world: dict[str, str], image: Image, directory: Path) -> tuple[float, float, str]:
    """Sum of all stages, the longest layer, and the sum by stage, in CPU seconds."""
    base = f"{world['registry_url']}/v2/bench/encrypted"
    command = ["curl", "-sf", f"{base}/manifests/v1"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    costs = []
    for descriptor, layer in zip(json.loads(done.stdout)["layers"], image.layers, strict=True):
        tar = directory / "layer.tar"
        tar.write_bytes(layer.tar)
        url = f"{base}/blobs/{descriptor['digest']}"
        costs.append(layer_cost(url, layer.blob, tar, directory / "scratch", encrypted=True))
    names = costs[0].stages
    parts = ", ".join(f"{name} {sum(c.stages[name] for c in costs):.2f}" for name in names)
    return sum(c.total() for c in costs), max(c.total() for c in costs), parts


def _as_rows(
    ours: list[tuple[float, float, float]],
    at_once: list[float],
    memory: list[float],
    cost: tuple[float, float, str],
    peer: list[float],
) -> list[Row]:
    floor, longest, parts = cost
    wall, spread = _middle([first for first, _, _ in ours])
    second, second_spread = _middle([second for _, second, _ in ours])
    early, early_spread = _middle(at_once)
    registry = statistics.median(registry for _, _, registry in ours)
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
        Row(
            name="the same as soon as the hub listens",
            bar=None,
            value=early / least,
            unit="x",
            peer=f"{least:.2f} s; {early_spread}",
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
