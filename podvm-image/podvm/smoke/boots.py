"""The boots of the smoke test; each gives results by `boot.identifier`.

Source: docs/spec/podvm-image.md 17; docs/spec/podvm-emulation.md, "Boot".
"""

import asyncio
import hashlib
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podvm import gpt, python_tree
from podvm.boot import Machine, Outcome, boot, plain
from podvm.errors import ImageError
from podvm.places import IMAGE, PROJECT
from podvm.run import run
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
from podvm.smoke.table import Result, parse
from podvm.smoke.world import World

DONE: Final = "SMOKE-DONE"
POWERED_OFF: Final = "reboot: Power down"
USERSPACE: Final = "Welcome to"
MARKS: Final = ("BdsDxe", USERSPACE, "SMOKE-START", "SMOKE S19", DONE, POWERED_OFF)
REST: Final = "Started api-server-rest.service"
ALIBABA: Final = ("Alibaba Cloud", "Alibaba Cloud ECS")
VOLUME_SIZE: Final = 64 << 20
"""Bytes of the disk that becomes an encrypted volume."""

ATTEMPTS: Final = 3
"""Boots at most, where the emulator breaks the kernel before user space."""

EMULATOR_FAULTS: Final = ("Oops: int3", "IO-APIC + timer doesn't work")
"""Code patching and timers of a kernel race with a loaded emulator; no hardware does this."""

LARGER: Final = "1G"
"""The system disk of the boot that makes a scratch store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a test runs.

    Attributes:
        world: what runs on the host.
        builds: directory with the variants' results.
        work: for disks that are thrown away.
        logs: console output is kept here, a file for each boot.
        seconds: until a boot is killed.
        outcomes: of the boots so far.
    """

    world: World
    builds: Path
    work: Path
    logs: Path
    seconds: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    async def boot(self, name: str, machine: Machine, until: str = "") -> tuple[Outcome, str]:
        """Boot; give the outcome and the console without colours."""
        for left in reversed(range(ATTEMPTS)):
            outcome = await asyncio.to_thread(
                boot, machine, deadline=self.seconds, marks=MARKS, until=until
            )
            console = plain(machine.serial.read_text("utf-8", "replace"))
            if not left or USERSPACE in console or not emulator_failed(console):
                break
            print(f"         {name}: the emulator failed, once more", file=sys.stderr, flush=True)
        self.outcomes[name] = outcome
        return outcome, console

    def network(self) -> str:
        """A network with the metadata service where Alibaba Cloud has it."""
        port = self.world.metadata.url.rsplit(":", 1)[1]
        relay = f"/usr/bin/python3 -I -S {IMAGE / 'podvm/relay.py'} {port}"
        return f"net=100.100.100.0/24,guestfwd=tcp:100.100.100.200:80-cmd:{relay}"


Results = dict[str, Result]


def emulator_failed(console: str) -> bool:
    """Whether the kernel died of what emulation is known for, and not of the image."""
    return any(text in console for text in EMULATOR_FAULTS)


def drive(path: Path, name: str, *, read_only: bool = False) -> tuple[str, ...]:
    """Arguments for one more disk, by serial number."""
    mode = ",readonly=on" if read_only else ""
    return (
        "-drive", f"file={path},format=raw,if=none,id={name}{mode}",
        "-device", f"virtio-blk-pci,drive={name},serial={name}",
    )  # fmt: skip


def programs() -> dict[str, str]:
    """SHA-256 of everything that /usr/local/bin may have, by name."""
    found = {path.name: path.read_bytes() for path in (IMAGE / "tree/usr/local/bin").iterdir()}
    scripts = python_tree.console_scripts(PROJECT / "pyproject.toml")
    for name in python_tree.COMMANDS:
        found[name] = python_tree.launcher(scripts[name]).encode()
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


async def _probed(
    site: Site, name: str, given: Given, machine: Callable[[Sequence[str]], Machine]
) -> Results:
    """A boot of the variant with probes."""
    directory = site.builds / "smoke"
    measured = predicted(directory)
    expected = expectations(name, site.world, given, directory, programs())
    disk = site.work / f"{name}.tar"
    disk.write_bytes(probe_disk(expected))
    site.world.metadata.user_data = given.user_data
    site.world.claims.clear()
    outcome, console = await site.boot(name, machine(drive(disk, "smoke", read_only=True)))
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


def volume(site: Site) -> Path:
    """The disk of the encrypted volume; empty at first, kept between boots."""
    path = site.work / "volume.raw"
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(VOLUME_SIZE)
    return path


async def cloud(site: Site) -> Results:
    """As an instance of Alibaba Cloud: metadata service, DMI, KBS and registry."""

    def machine(extra: Sequence[str]) -> Machine:
        return Machine(
            disk=site.builds / "smoke/podvm.raw",
            serial=site.logs / "cloud.log",
            memory=1536,
            smbios=ALIBABA,
            network=site.network(),
            extra=(*extra, *drive(volume(site), "volume")),
        )

    return await _probed(site, "cloud", with_init_data(site.world), machine)


async def disk(site: Site) -> Results:
    """With a configuration disk, a larger system disk, and the volume of the boot before."""
    given = with_init_data(site.world, scratch=True)
    assert given.user_data is not None
    larger, seed = site.work / "larger.qcow2", site.work / "cidata.raw"
    base = (site.builds / "smoke/podvm.raw").resolve()
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, larger, LARGER])
    config_disk(seed, given.user_data)

    def machine(extra: Sequence[str]) -> Machine:
        return Machine(
            disk=larger,
            disk_format="qcow2",
            serial=site.logs / "disk.log",
            memory=1536,
            network=site.network(),
            extra=(
                *extra, *drive(volume(site), "volume"), *drive(seed, "seed", read_only=True),
            ),
        )  # fmt: skip

    return await _probed(site, "disk", given, machine)


def config_disk(path: Path, user_data: bytes) -> None:
    """A disk with the label cidata and the file `user-data`."""
    path.unlink(missing_ok=True)
    source = path.with_suffix(".user-data")
    source.write_bytes(user_data)
    run(["mkfs.vfat", "-C", "-n", "cidata", path, "1024"])
    run(["mcopy", "-i", path, source, "::user-data"])


async def nothing_given(site: Site) -> Results:
    """No provider, no user data: the dummy, and offline resources."""

    def machine(extra: Sequence[str]) -> Machine:
        return Machine(
            disk=site.builds / "smoke/podvm.raw",
            serial=site.logs / "plain.log",
            memory=1536,
            extra=extra,
        )

    return await _probed(site, "plain", without_user_data(), machine)


async def production(site: Site) -> Results:
    """The image that is shipped: what it says to the KBS, and what it shows on its console."""
    given = with_init_data(site.world, credentials=True)
    measured = predicted(site.builds / "production")
    site.world.metadata.user_data = given.user_data
    site.world.claims.clear()
    machine = Machine(
        disk=site.builds / "production/podvm.raw",
        serial=site.logs / "production.log",
        memory=1536,
        smbios=ALIBABA,
        network=site.network(),
        power_button_after=REST,
    )
    outcome, console = await site.boot("production", machine)
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
        machine = Machine(disk=copy, serial=site.logs / f"{name}.log", processors=1)
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
    "tampered": tampered,
    "cloud": cloud,
    "disk": disk,
    "plain": nothing_given,
    "production": production,
}
"""By name, in their order: `disk` needs the volume of `cloud`."""
