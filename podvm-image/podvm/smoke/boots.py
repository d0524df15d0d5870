"""The boots of the smoke test; each gives results by `boot.identifier`.

Source: docs/spec/podvm-image.md 17; docs/spec/podvm-emulation.md, "Boot".
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from guest_simulator.faults import ArmedFault, Fault
from podvm import gpt, python_tree
from podvm.boot import Machine
from podvm.errors import ImageError
from podvm.places import IMAGE, PROJECT
from podvm.run import run
from podvm.smoke.gate import gate
from podvm.smoke.scenario import (
    Given,
    expectations,
    in_evidence,
    predicted,
    probe_disk,
    secrets_in,
    with_init_data,
    without_user_data,
)
from podvm.smoke.site import DONE, POWERED_OFF, USERSPACE, Results, Site
from podvm.smoke.table import Result, parse

REST: Final = "Started api-server-rest.service"
ALIBABA: Final = ("Alibaba Cloud", "Alibaba Cloud ECS")
VOLUME_SIZE: Final = 32 << 20
"""Bytes of the disk that becomes an encrypted volume."""

CREDENTIALS_SECONDS: Final = 30.0
"""Seconds that the hub waits for its credentials where the KBS is late."""

PATIENT_SECONDS: Final = 170.0
"""The same where it is there, under emulation."""

ARTIFACTS_SIZE: Final = 8 << 20
"""Bytes of the disk on which the guest brings things back: a length of 8 bytes, a chart."""

USER_DATA: Final = "/latest/user-data"
SLOW: Final = 3.0
"""Seconds that the metadata service takes while it is slow."""

LARGER: Final = "1G"
"""The system disk of the boot that makes a scratch store."""


def drive(path: Path, name: str, *, read_only: bool = False) -> tuple[str, ...]:
    """Arguments for one more disk, by serial number."""
    mode = ",readonly=on" if read_only else ""
    return (
        "-drive", f"file={path},format=raw,if=none,id={name}{mode}",
        "-device", f"virtio-blk-pci,drive={name},serial={name}",
    )  # fmt: skip


def programs(directory: Path) -> dict[str, str]:
    """SHA-256 of everything that /usr/local/bin may have, by name.

    Args:
        directory: results of the build, whose manifest names programs of others.
    """
    found = {path.name: path.read_bytes() for path in (IMAGE / "tree/usr/local/bin").iterdir()}
    scripts = python_tree.console_scripts(PROJECT / "pyproject.toml")
    for name in python_tree.COMMANDS:
        found[name] = python_tree.launcher(scripts[name]).encode()
    others = json.loads((directory / "manifest.json").read_text())["programs"]
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} | {
        one["name"]: one["sha256"] for one in others if one["name"] != "pause"
    }


async def _probed(
    site: Site,
    name: str,
    given: Given,
    machine: Machine,
    prepare: Callable[[], None] | None = None,
) -> Results:
    """A boot of the variant with probes.

    Args:
        site: where.
        name: of the boot, and of its probes.
        given: what the instance gets.
        machine: without the disk of the probes.
        prepare: makes other disks as they are before the boot.
    """
    directory = site.builds / "smoke"
    measured = predicted(directory)
    disk = site.work / f"{name}.tar"
    expected = expectations(name, site.world, given, directory, programs(directory))
    disk.write_bytes(probe_disk(expected, site.module))

    def start() -> None:
        site.world.metadata.user_data = given.user_data
        site.world.claims.clear()
        if prepare is not None:
            prepare()

    whole = replace(machine, extra=(*machine.extra, *drive(disk, "smoke", read_only=True)))
    outcome, console = await site.boot(name, whole, prepare=start)
    found = {f"{name}.{key}": result for key, result in parse(console).items()}
    found[f"{name}.done"] = Result(good=DONE in console, detail="all probes ran")
    found[f"{name}.off"] = Result(
        good=outcome.ended and POWERED_OFF in console, detail=f"off after {outcome.seconds:.0f} s"
    )
    shown = secrets_in(console, site.world)
    found[f"{name}.console"] = Result(good=not shown, detail=", ".join(shown) or "no secret")
    if given.user_data is not None:
        found[f"{name}.evidence"] = _evidence(site, given, measured)
    return found


def _evidence(site: Site, given: Given, measured: Mapping[str, str]) -> Result:
    if not site.world.claims:
        return Result(good=False, detail="no evidence was verified")
    wrong = [in_evidence(claims, given, measured) for claims in site.world.claims]
    return Result(
        good=not any(wrong), detail="; ".join(filter(None, wrong)) or f"{len(wrong)} quotes"
    )


def _machine(site: Site, name: str) -> Machine:
    return Machine(
        disk=site.builds / "smoke/podvm.raw", serial=site.logs / f"{name}.log", memory=1536
    )


async def cloud(site: Site) -> Results:
    """As an instance of Alibaba Cloud: metadata service, DMI, registry, and a KBS that is late.

    The metadata service is wrong at first, then slow.
    """
    volume = site.work / "volume.raw"
    faults = site.world.metadata.faults
    armed: list[ArmedFault] = []

    def empty() -> None:
        faults.clear()
        wrong = Fault(path=USER_DATA, status=503, times=1)
        armed[:] = [faults.add(wrong), faults.add(Fault(path=USER_DATA, delay=SLOW, times=2))]
        with volume.open("wb") as file:
            file.truncate(VOLUME_SIZE)

    async with gate(site.world.kbs.port, closed=True) as broker:
        site.world.broker = broker
        machine = replace(
            _machine(site, "cloud"),
            smbios=ALIBABA,
            network=site.network(),
            extra=drive(volume, "volume"),
        )
        found = await _probed(site, "cloud", with_init_data(site.world), machine, empty)
    hits = [fault.hits for fault in armed]
    found["cloud.metadata"] = Result(good=hits == [1, 2], detail=f"wrong and slow: {hits} answers")
    return found


async def disk(site: Site) -> Results:
    """With a configuration disk, a larger system disk, and the volume of the boot before."""
    larger, seed = site.work / "larger.qcow2", site.work / "cidata.raw"
    before, volume = site.work / "volume.raw", site.work / "volume-again.raw"
    base = (site.builds / "smoke/podvm.raw").resolve()
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, larger, LARGER])

    def again() -> None:
        shutil.copyfile(before, volume)

    async with gate(site.world.kbs.port, closed=True) as broker:
        site.world.broker = broker
        given = with_init_data(site.world, scratch=True, credentials=CREDENTIALS_SECONDS)
        assert given.user_data is not None
        config_disk(seed, given.user_data)
        machine = replace(
            _machine(site, "disk"),
            disk=larger,
            disk_format="qcow2",
            network=site.network(),
            extra=(*drive(volume, "volume"), *drive(seed, "seed", read_only=True)),
        )
        return await _probed(site, "disk", given, machine, again)


def config_disk(path: Path, user_data: bytes) -> None:
    """A disk with the label cidata and the file `user-data`."""
    path.unlink(missing_ok=True)
    source = path.with_suffix(".user-data")
    source.write_bytes(user_data)
    run(["mkfs.vfat", "-C", "-n", "cidata", path, "1024"])
    run(["mcopy", "-i", path, source, "::user-data"])


async def nothing_given(site: Site) -> Results:
    """No provider, no user data: the dummy, and offline resources."""
    async with gate(site.world.kbs.port, closed=False) as broker:
        site.world.broker = broker
        artifacts = site.work / "artifacts.raw"
        with artifacts.open("wb") as file:
            file.truncate(ARTIFACTS_SIZE)
        machine = replace(_machine(site, "plain"), extra=drive(artifacts, "artifacts"))
        found = await _probed(site, "plain", without_user_data(), machine)
    data = artifacts.read_bytes()
    (site.logs / "boot.svg").write_bytes(data[8 : 8 + int.from_bytes(data[:8], "big")])
    return found


async def production(site: Site) -> Results:
    """The image that is shipped: what it says to the KBS, and what it shows on its console."""
    measured = predicted(site.builds / "production")
    async with gate(site.world.kbs.port, closed=False) as broker:
        site.world.broker = broker
        given = with_init_data(site.world, credentials=PATIENT_SECONDS)

        def start() -> None:
            site.world.metadata.user_data = given.user_data
            site.world.claims.clear()

        machine = replace(
            _machine(site, "production"),
            disk=site.builds / "production/podvm.raw",
            smbios=ALIBABA,
            network=site.network(),
            power_button_after=REST,
        )
        outcome, console = await site.boot("production", machine, prepare=start)
    shown = secrets_in(console, site.world)
    return {
        "production.up": Result(good=REST in console, detail="the REST service started"),
        "production.evidence": _evidence(site, given, measured),
        "production.console": Result(good=not shown, detail=", ".join(shown) or "no secret"),
        "production.login": Result(good="login:" not in console, detail="no login"),
        "production.off": Result(
            good=outcome.ended and POWERED_OFF in console,
            detail=f"off after {outcome.seconds:.0f} s",
        ),
    }


async def tampered(site: Site) -> Results:
    """Copies with one bit flipped: in the hash tree, and in the data."""
    found: Results = {}
    original = (site.builds / "production/podvm.raw").read_bytes()
    starts = {name: first for name, first, _ in gpt.partitions(original[: 34 * gpt.SECTOR])}
    ends = {name: end for name, _, end in gpt.partitions(original[: 34 * gpt.SECTOR])}
    places = {
        # The block after the superblock is the top of the tree.
        "hash": starts["podvm-root-verity"] + 4096 + 7,
        # The tables at the end of a squashfs are read when it is mounted.
        "data": starts["podvm-root"] + _squashfs_size(original, starts["podvm-root"]) - 40,
    }
    assert places["data"] < ends["podvm-root"]
    for name, place in places.items():
        copy = site.work / "tampered.raw"
        changed = bytearray(original)
        changed[place] ^= 1
        copy.write_bytes(changed)
        machine = Machine(disk=copy, serial=site.logs / f"{name}.log")
        outcome, console = await site.boot(name, machine, until=USERSPACE)
        stopped = outcome.ended and USERSPACE not in console
        noticed = "verity" in console.lower()
        found[f"{name}.S2"] = Result(
            good=stopped and noticed,
            detail=f"{'stopped' if stopped else 'went on'}, "
            f"{'' if noticed else 'not '}noticed, {outcome.seconds:.0f} s",
        )
    return found


def _squashfs_size(disk: bytes, start: int) -> int:
    if disk[start : start + 4] != b"hsqs":
        raise ImageError("the root is no squashfs")
    (size,) = struct.unpack_from("<Q", disk, start + 40)
    return int(size)


Boot = Callable[[Site], Awaitable[Results]]

BOOTS: Final[Mapping[str, Boot]] = {
    "cloud": cloud,
    "disk": disk,
    "tampered": tampered,
    "plain": nothing_given,
    "production": production,
}
"""By name; `disk` needs the volume of `cloud`."""
