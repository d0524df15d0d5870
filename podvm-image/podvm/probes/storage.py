"""Probe of the scratch disk: the rest of the system disk, encrypted for this boot."""

import re
from pathlib import Path
from typing import Final

from podvm.probes.report import demand, run, unit, wait_for

STORE: Final = "/run/kata-containers/image"
SECONDS: Final = 240.0


def scratch() -> str:
    """The store is a dm-crypt mount; the backup of the partition table is at the disk's end."""
    wait_for("scratch", lambda: unit("scratch-storage", "ActiveState") != "activating", SECONDS)
    state = unit("scratch-storage", "ActiveState")
    said = run(["journalctl", "-b", "-o", "cat", "--no-pager", "-u", "scratch-storage", "-n", "12"])
    demand(state == "active", f"scratch-storage is {state}: {said}")
    mounts = [line.split() for line in Path("/proc/1/mountinfo").read_text().splitlines()]
    sources = [line[line.index("-") + 2] for line in mounts if line[4] == STORE]
    demand(sources == ["/dev/mapper/coco-scratch"], f"{STORE} is mounted from {sources}")
    status = run(["cryptsetup", "status", "coco-scratch"])
    demand(re.search(r"integrity:\s+hmac\(sha256\)", status), status)
    sectors = int(run(["blockdev", "--getsz", "/dev/vda"]))
    with open("/dev/vda", "rb") as disk:
        disk.seek((sectors - 1) * 512)
        demand(disk.read(8) == b"EFI PART", "no backup header in the last sector")
    demand(not Path("/run/coco-scratch.key").exists(), "the key is still there")
    return f"dm-crypt with integrity on a disk of {sectors // 2048} MiB"
