"""Where the smoke test's boots run, and what happens when the emulator breaks one.

Source: docs/spec/podvm-emulation.md, "Boot".
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podvm import children
from podvm.boot import Machine, Outcome, boot, plain
from podvm.places import IMAGE
from podvm.smoke.table import Result
from podvm.smoke.world import World

DONE: Final = "SMOKE-DONE"
POWERED_OFF: Final = "reboot: Power down"
USERSPACE: Final = "Welcome to"
MARKS: Final = ("BdsDxe", USERSPACE, "SMOKE-START", "SMOKE S19", DONE, POWERED_OFF)

EMULATOR_FAULTS: Final = (
    "Oops: int3",
    "IO-APIC + timer doesn't work",
    "Kernel panic - not syncing",
)
"""Code patching, timers and threads of a guest race with a loaded emulator."""

OF_THE_IMAGE: Final = "dm-verity device corrupted"
"""A panic that the image is built to have."""


Results = dict[str, Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a lane of boots runs.

    Attributes:
        world: what runs on the host.
        builds: directory with the variants' results.
        work: for disks that are thrown away.
        logs: console output is kept here, a file for each boot.
        seconds: until a boot is killed.
        module: a kernel module that gives reports as a TEE does.
        outcomes: of the boots so far.
        repeated: boots that the emulator broke and that were done once more, and why.
    """

    world: World
    builds: Path
    work: Path
    logs: Path
    seconds: float
    module: bytes = b""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)

    async def boot(
        self,
        name: str,
        machine: Machine,
        *,
        until: str = "",
        prepare: Callable[[], None] | None = None,
    ) -> tuple[Outcome, str]:
        """Boot; give the outcome and the console without colours.

        A boot that the emulator broke is repeated once, which `repeated` and the log tell.

        Args:
            name: of the boot.
            machine: what to boot.
            until: see `podvm.boot.boot`.
            prepare: makes the disks and the world as they are before it; before each attempt.
        """
        for last in (False, True):
            if prepare is not None:
                prepare()
            outcome = await children.in_thread(
                lambda stop: boot(
                    machine, deadline=self.seconds, marks=MARKS, until=until, stop=stop
                )
            )
            console = plain(machine.serial.read_text("utf-8", "replace"))
            why = emulator_fault(console)
            if last or not why:
                break
            self.repeated[name] = why
            machine.serial.replace(machine.serial.with_suffix(".broken.log"))
            print(f"         {name}: once more, because of: {why}", file=sys.stderr, flush=True)
        self.outcomes[name] = outcome
        return outcome, console

    def network(self) -> str:
        """A network with the metadata service where Alibaba Cloud has it."""
        port = self.world.metadata.url.rsplit(":", 1)[1]
        relay = f"{sys.executable} -I -S {IMAGE / 'podvm/relay.py'} {port}"
        return f"net=100.100.100.0/24,guestfwd=tcp:100.100.100.200:80-cmd:{relay}"


def emulator_fault(console: str) -> str:
    """The line of a console that tells of the emulator's fault; empty without one."""
    if OF_THE_IMAGE in console:
        return ""
    for line in console.splitlines():
        if any(text in line for text in EMULATOR_FAULTS):
            return line.strip()[:160]
    return ""
