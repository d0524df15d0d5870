"""A data hub that pulls, and the peer that does the same: timed, and their CPU and memory."""

import asyncio
import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.place import BIN, Place, connect, running
from bench.start import IDLE_SECONDS, family, pss
from guest.deadline import Deadline
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest.ttrpc.channel import TtrpcChannel

SECONDS: Final = 300.0
"""Seconds that one pull, push or peer may take."""

LAYERS_IN_FLIGHT: Final = 3
"""The default of `max_concurrent_layer_downloads_per_image`."""

_KCMP: Final = 312
_KCMP_VM: Final = 1

BUNDLES: Final = ("bundle", "bundle2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one pull took.

    Attributes:
        wall: seconds.
        cpu: of the hub, its unpack server and its workers, in seconds.
        registry: of the registry, in CPU seconds.
    """

    wall: float
    cpu: float
    registry: float


@contextmanager
def hub(place: Place, *, idle: bool = True) -> Iterator[int]:
    """Fresh daemons and an empty store; the data hub's process id.

    With `idle` the block begins when the bars of memory count a daemon as idle, else at once.
    """
    _clear(place, (*BUNDLES, "store"))
    with ExitStack() as stack:
        log = place.directory / "log"
        aa = stack.enter_context(running(place.aa_command(), log))
        connect(place.aa, aa).close()
        cdh = stack.enter_context(running(place.cdh_command(), log))
        connect(place.cdh, cdh).close()
        if idle:
            time.sleep(IDLE_SECONDS)
        yield cdh.pid
        _clear(place, BUNDLES)


def _clear(place: Place, names: tuple[str, ...]) -> None:
    for name in names:
        rootfs = place.directory / name / "rootfs"
        if rootfs.is_mount():
            subprocess.run(["umount", str(rootfs)], check=True)
        shutil.rmtree(place.directory / name, ignore_errors=True)


def pull(place: Place, image: str, bundle: str, pid: int, registry: int) -> Cost:
    """Pull an image into one of `BUNDLES`; `pid` is the hub, `registry` what serves it."""
    before = _family_cpu(pid), cpu_seconds(registry)
    started = time.perf_counter()
    asyncio.run(_call(place, image, bundle))
    wall = time.perf_counter() - started
    after = _family_cpu(pid), cpu_seconds(registry)
    return Cost(wall=wall, cpu=after[0] - before[0], registry=after[1] - before[1])


async def _call(place: Place, image: str, bundle: str) -> None:
    channel = TtrpcChannel(f"unix://{place.cdh}")
    request = ImagePullRequest(image_url=image, bundle_path=str(place.directory / bundle))
    await channel.call(PULL_IMAGE, request, deadline=Deadline.after(SECONDS))
    await channel.close()


def peak_of_pull(place: Place, image: str) -> float:
    """Peak MiB of a hub's first pull above what the hub alone has when it is idle.

    Looking takes a good part of a core.
    """
    with hub(place) as pid:
        idle = pss(pid)
        with _peak(pid) as peak:
            asyncio.run(_call(place, image, BUNDLES[0]))
    return max(peak) - idle


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, not of its children."""
    return _ticks(pid, 11, 12)


def _family_cpu(pid: int) -> float:
    """CPU seconds of a process, of what descends from it, and of those that have ended."""
    return sum(_ticks(member, 11, 12, 13, 14) for member in family(pid))


def _ticks(pid: int, *fields: int) -> float:
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(values[field]) for field in fields) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    """Samples the PSS of a process and its descendants every 20 ms while the block runs."""
    samples, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.02):
            members = [
                member for member in family(pid) if member == pid or not _is_one(member, pid)
            ]
            samples.append(sum(_pss_or_none(member) for member in members))

    sampler = threading.Thread(target=sample, name="pss")
    sampler.start()
    try:
        yield samples
    finally:
        ended.set()
        sampler.join()


def _is_one(pid: int, other: int) -> bool:
    """Whether two processes have one memory: a child between vfork and exec has its parent's."""
    if os.uname().machine != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_KCMP, pid, other, _KCMP_VM, 0, 0) == 0)


def _pss_or_none(pid: int) -> float:
    try:
        return pss(pid)
    except OSError:
        return 0.0


def encrypt_command(world: dict[str, str], key: Path, source: str, target: str) -> None:
    """Push an image encrypted for the simulated KBS.

    Args:
        world: what the simulator printed.
        key: file of 32 bytes that wraps the layer keys; made when absent.
        source: `oci:DIRECTORY:TAG`.
        target: name and tag in the simulator's registry.
    """
    if not key.exists():
        key.write_bytes(os.urandom(32))
    parameters = f"keypath={key}::keyid=kbs:///default/image-kek/bench"
    command = [
        *(str(BIN / "guest"), "image", "encrypt", "--dest-plain-http"),
        *("--encryption-key", f"provider:attestation-agent:{parameters}"),
        *("--kbs", world["kbs"], "--auth-private-key", world["admin_key"], "--role", "admin"),
        *(source, f"docker://{world['registry']}/{target}"),
    ]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS, stderr=subprocess.DEVNULL
    )


def push_plain(host: str, source: str, target: str) -> None:
    """Push an image as it is, with skopeo."""
    copy = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", "-q"]
    destination = ["--dest-tls-verify=false", source, f"docker://{host}/{target}"]
    subprocess.run([*copy, *destination], check=True, timeout=SECONDS)


def have_peer() -> bool:
    """Whether skopeo and umoci are here."""
    return bool(shutil.which("skopeo") and shutil.which("umoci"))


@contextmanager
def peer_pull(image: str, directory: Path) -> Iterator[tuple[float, Path]]:
    """`skopeo copy` to a layout and `umoci raw unpack`: wall seconds and the tree, for a while."""
    layout, tree = directory / "skopeo", directory / "umoci"
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    unpack = ["umoci", "raw", "unpack", *rootless, "--image", f"{layout}:v1", str(tree)]
    try:
        started = time.perf_counter()
        subprocess.run(
            [*copy, f"docker://{image}", f"oci:{layout}:v1"], check=True, timeout=SECONDS
        )
        subprocess.run(unpack, check=True, timeout=SECONDS, capture_output=True)
        yield time.perf_counter() - started, tree
    finally:
        shutil.rmtree(layout, ignore_errors=True)
        shutil.rmtree(tree, ignore_errors=True)
