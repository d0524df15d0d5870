"""Four images of this machine's own files, pulled by us and by skopeo + umoci.

A: 10 layers, 20,000 files, 330 MB, gzip. B: A encrypted. C: one layer of 1 GiB in large files,
zstd, encrypted. D: 60 layers of 100 small files. Ours, the stages alone and the peer take turns,
and each of our pulls is held against the stages of its own round: what the machine does besides
concerns both. Where others use it too, the CPU seconds tell more than the wall time: both are in
the table.

Source: docs/ARCHITECTURE.md, section 5; docs/adr/0003-pull-speed.md.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from isal import igzip

from bench.hub import (
    BUNDLES,
    LAYERS_IN_FLIGHT,
    SECONDS,
    Cost,
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
from bench.stages import LayerCost, layer_cost
from guest_simulator.images.entries import Entry
from guest_simulator.images.image import Compression
from support import real_images, trees
from support.real_images import BuiltLayer, Recipe
from support.trees import differences, rows_of

ROUNDS: Final = 5
MEMORY_ROUNDS: Final = 1
WALL_BAR: Final = 1.4
PEER_BAR: Final = 0.6
MEMORY_BAR: Final = 32.0
PER_LAYER: Final = 0.010
"""Seconds a layer that image D may take beyond the bound."""

SMALL: Final = "bench/small:v1"
"""What a hub pulls before, so that imports and attestation are behind it."""


@dataclass(slots=True, kw_only=True)
class Case:
    """One image, and what was measured of it.

    Attributes:
        title: letter and description.
        layers: as built, before encryption.
        name: of what we pull, in the registry.
        peer_name: of the same content unencrypted, in a form that umoci reads.
        first: pulls of fresh hubs that were idle.
        at_once: pulls of hubs that had just begun to listen.
        later: pulls of hubs that had pulled.
        peer: wall seconds of skopeo + umoci.
        floors: what the stages cost alone, in each round.
        memory: MiB above idle.
        unlike: names that differ between the two trees; None when no peer is here.
    """

    title: str
    layers: Sequence[BuiltLayer]
    name: str
    peer_name: str
    encrypted: bool
    first: list[Cost] = field(default_factory=list)
    at_once: list[Cost] = field(default_factory=list)
    later: list[Cost] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    floors: list["Floor"] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    unlike: list[str] | None = None

    @property
    def letter(self) -> str:
        """A, B, C or D."""
        return self.title[0]


def rows() -> list[Row]:
    """For each image: time against its bound and its peer, memory, and the tree."""
    with short_directory() as directory, ExitStack() as stack:
        world = stack.enter_context(simulator())
        host = world["registry"]
        cases = _cases(world, directory)
        place = Place(directory=directory, kbs=world["kbs"])
        rule = f'[[image.registry_config.registry]]\nlocation = "{host}"\ninsecure = true\n'
        place.write_configs(rule)
        for number in range(ROUNDS):
            seen = _Seen()
            for case in cases:
                _measure(case, place, world, seen if number == ROUNDS - 1 else None)
                case.floors.append(_floor(case, world, directory / "scratch"))
                _measure_peer(case, cases[0], place, world, seen)
        for case in cases:
            names = [f"{host}/{case.name}"] * MEMORY_ROUNDS
            case.memory = [peak_of_pull(place, name) for name in names]
        found = [row for case in cases for row in _rows_of(case)]
        memory = {case.letter: max(case.memory) for case in cases}
        return [*found, _memory_ratio(memory)]


def _cases(world: dict[str, str], directory: Path) -> list[Case]:
    """The four images, pushed."""
    host = world["registry"]
    many = _built(real_images.many_files(), directory)
    large = _built(real_images.one_large_layer(), directory)
    small = _built(real_images.many_layers(), directory)
    tiny = Recipe(name="S", layers=((Entry(path="a"),),), compression=Compression.GZIP)
    _built(tiny, directory)
    # umoci 0.4 reads no zstd: its image C is the same archive as gzip
    home = directory / "C"
    gzip = [real_images.repacked(layer, home, lambda data: igzip.compress(data)) for layer in large]
    real_images.write_index(gzip, home / "layout", "gzip")

    def encrypt(letter: str, target: str) -> None:
        encrypt_command(world, directory / "kek", f"oci:{directory}/{letter}/layout:v1", target)

    encrypt("S", SMALL)
    encrypt("A", "bench/b:v1")
    encrypt("C", "bench/c:v1")
    for letter, tag in (("A", "v1"), ("C", "gzip"), ("D", "v1")):
        source = f"oci:{directory}/{letter}/layout:{tag}"
        push_plain(host, source, f"bench/{letter.lower()}:{tag}")
    files = sum(len(layer) for layer in real_images.many_files().layers)
    return [
        Case(
            title=f"A (10 layers, {files} files, gzip)",
            layers=many,
            name="bench/a:v1",
            peer_name="bench/a:v1",
            encrypted=False,
        ),
        Case(
            title="B (A encrypted)",
            layers=many,
            name="bench/b:v1",
            peer_name="bench/a:v1",
            encrypted=True,
        ),
        Case(
            title="C (one layer of 1 GiB, zstd, encrypted)",
            layers=large,
            name="bench/c:v1",
            peer_name="bench/c:gzip",
            encrypted=True,
        ),
        Case(
            title="D (60 layers of 100 small files, gzip)",
            layers=small,
            name="bench/d:v1",
            peer_name="bench/d:v1",
            encrypted=False,
        ),
    ]


def _built(recipe: Recipe, directory: Path) -> list[BuiltLayer]:
    return real_images.write_image(recipe, directory / recipe.name)


@dataclass(slots=True)
class _Seen:
    """The trees of one round: ours of the image at hand, the peer's of image A."""

    ours: dict[str, trees.Row] | None = None
    many: dict[str, trees.Row] | None = None


def _measure(case: Case, place: Place, world: dict[str, str], seen: _Seen | None) -> None:
    """One round of ours: a hub that is idle, one that has just started, one that has pulled."""
    host, registry = world["registry"], int(world["pid"])
    with hub(place) as pid:
        case.first.append(pull(place, f"{host}/{case.name}", BUNDLES[0], pid, registry))
        if seen is not None and have_peer():
            seen.ours = rows_of(place.directory / BUNDLES[0] / "rootfs")
    with hub(place, idle=False) as pid:
        case.at_once.append(pull(place, f"{host}/{case.name}", BUNDLES[0], pid, registry))
    with hub(place, idle=False) as pid:
        pull(place, f"{host}/{SMALL}", BUNDLES[0], pid, registry)
        case.later.append(pull(place, f"{host}/{case.name}", BUNDLES[1], pid, registry))


def _measure_peer(case: Case, many: Case, place: Place, world: dict[str, str], seen: _Seen) -> None:
    """One round of the peer; what it takes for image A counts for B, which it cannot decrypt."""
    if not have_peer():
        return
    if case.peer_name == many.peer_name and case is not many:
        case.peer.append(many.peer[-1])
        theirs = seen.many
    else:
        with peer_pull(f"{world['registry']}/{case.peer_name}", place.directory) as (wall, tree):
            case.peer.append(wall)
            theirs = rows_of(tree) if seen.ours is not None else None
    if case is many:
        seen.many = theirs
    if seen.ours is not None and theirs is not None:
        case.unlike = differences(seen.ours, theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What the stages of an image cost alone in one round, in CPU seconds.

    Attributes:
        stages: of all layers, by name; the registry among them.
        longest: all stages of one layer.
    """

    stages: Mapping[str, float]
    longest: float

    @property
    def total(self) -> float:
        """Sum over the stages."""
        return sum(self.stages.values())

    @property
    def bound(self) -> float:
        """Seconds that a pull takes at least on this machine's cores."""
        return max(self.total / (os.cpu_count() or 1), self.longest)


def _floor(case: Case, world: dict[str, str], scratch: Path) -> Floor:
    name, _, tag = case.name.partition(":")
    base = f"{world['registry_url']}/v2/{name}"
    command = ["curl", "-sf", f"{base}/manifests/{tag}"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    digests = [layer["digest"] for layer in json.loads(done.stdout)["layers"]]
    costs = [
        _layer_cost(case, layer, f"{base}/blobs/{digest}", scratch)
        for digest, layer in zip(digests, case.layers, strict=True)
    ]
    stages = {stage: sum(each.stages[stage] for each in costs) for stage in costs[0].stages}
    stages["registry"] = case.first[-1].registry
    return Floor(stages=stages, longest=max(each.total() for each in costs))


def _layer_cost(case: Case, layer: BuiltLayer, url: str, scratch: Path) -> LayerCost:
    return layer_cost(
        url,
        layer.blob.read_bytes(),
        layer.tar,
        scratch,
        encrypted=case.encrypted,
        zstd=layer.compression is Compression.ZSTD,
    )


def _rows_of(case: Case) -> list[Row]:
    bound = _median([floor.bound for floor in case.floors])
    bar = WALL_BAR
    if case.letter == "D":
        bar = round(1 + PER_LAYER * len(case.layers) / bound, 3)
    result = [
        _against_bound(f"{case.title}: first pull", case, case.first, bar),
        _against_bound(f"{case.letter}: in a hub that has pulled", case, case.later, bar),
        _against_bound(f"{case.letter}: as soon as the hub listens", case, case.at_once, None),
        _cpu_row(case),
    ]
    result[0] = replace(result[0], peer=f"{_stages(case)}; {result[0].peer}")
    if case.peer:
        other = statistics.median(case.peer)
        result.append(
            Row(
                name=f"{case.letter}: first pull against skopeo copy + umoci, unencrypted",
                bar=PEER_BAR,
                value=_median([cost.wall for cost in case.first]) / other,
                unit="x",
                peer=f"{_spread(case.peer)}; ours {_spread([c.wall for c in case.first])}",
            )
        )
    if case.unlike is not None:
        result.append(_tree_row(case.letter, case.unlike))
    in_flight = min(LAYERS_IN_FLIGHT, len(case.layers))
    result.append(
        Row(
            name=f"{case.letter}: peak memory above idle, per layer in flight",
            bar=MEMORY_BAR,
            value=max(case.memory) / in_flight,
            unit="MiB",
            peer=f"none; PSS of CDH and its children, {in_flight} in flight",
        )
    )
    return result


def _stages(case: Case) -> str:
    """The bound and what it is made of, medians over the rounds."""
    packed = sum(layer.packed_bytes for layer in case.layers) / 1e6
    plain = sum(layer.tar_bytes for layer in case.layers) / 1e6
    parts = ", ".join(
        f"{stage} {_median([floor.stages[stage] for floor in case.floors]):.2f}"
        for stage in case.floors[0].stages
    )
    return (
        f"bound {_spread([floor.bound for floor in case.floors])}; "
        f"{packed:.0f} MB packed, {plain:.0f} MB of tar; CPU: {parts}"
    )


def _against_bound(name: str, case: Case, costs: list[Cost], bar: float | None) -> Row:
    ratios = [cost.wall / floor.bound for cost, floor in zip(costs, case.floors, strict=True)]
    return Row(
        name=name,
        bar=bar,
        value=_median(ratios),
        unit="x",
        peer=f"{min(ratios):.2f} to {max(ratios):.2f} x; ours {_spread([c.wall for c in costs])}",
    )


def _cpu_row(case: Case) -> Row:
    spent = [cost.cpu + cost.registry for cost in case.later]
    ratios = [each / floor.total for each, floor in zip(spent, case.floors, strict=True)]
    return Row(
        name=f"{case.letter}: CPU of such a pull against its stages",
        bar=None,
        value=_median(ratios),
        unit="x",
        peer=f"ours {_spread(spent)}",
    )


def _tree_row(letter: str, unlike: list[str]) -> Row:
    shown = f"; {'; '.join(unlike[:3])}" if unlike else ""
    return Row(
        name=f"{letter}: names that differ from umoci's tree",
        bar=0,
        value=len(unlike),
        unit="",
        peer=f"mode, owner, times, xattrs, links, devices, content{shown}",
        kind="exactly",
    )


def _memory_ratio(memory: dict[str, float]) -> Row:
    return Row(
        name="peak memory of image C against that of image A",
        bar=1.0,
        value=memory["C"] / memory["A"],
        unit="x",
        peer=", ".join(f"{letter} {value:.0f} MiB" for letter, value in memory.items()),
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _spread(values: Sequence[float]) -> str:
    return f"{_median(values):.2f} s, {min(values):.2f} to {max(values):.2f}"
