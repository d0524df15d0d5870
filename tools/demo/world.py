"""The demo's own world: directories, keys, simulated KBS and registry, and the guest's services.

Nothing is shared with the machine: sockets, store and ports are the demo's own, port 8006
included where it is free.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from guest_simulator.cert import CertificateAuthority
from guest_simulator.kbs.admin import AdminMode, AdminRules
from guest_simulator.kbs.behaviour import Behaviour
from guest_simulator.kbs.server import Kbs
from guest_simulator.registry.server import Registry

BIN: Final = Path(sys.executable).parent
"""Where `make setup` left the installed commands."""

START_SECONDS: Final = 30.0
"""Seconds that the services may take until their sockets accept."""

STOP_SECONDS: Final = 10.0
"""Seconds that a service may take to stop before it is killed."""

MEMORY: Final = Path("/dev/shm")
MEMORY_NEEDED: Final = 2 << 30
"""Bytes that must be free in memory for the store to go there."""


class DemoError(Exception):
    """The demo did not show what it was to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that runs.

    Attributes:
        directory: where it all is, at most 60 bytes.
        kbs: the simulated KBS.
        registry: the simulated registry.
        admin_key: file with the owner's Ed25519 key, which the KBS takes uploads from.
        ca: file with the certificate of the KBS's private authority.
        rest_port: port of the REST shim.
    """

    directory: Path
    kbs: Kbs
    registry: Registry
    admin_key: Path
    ca: Path
    rest_port: int

    @property
    def aa_socket(self) -> Path:
        """Socket of the attestation agent."""
        return self.directory / "run" / "aa.sock"

    @property
    def cdh_socket(self) -> Path:
        """Socket of the confidential data hub."""
        return self.directory / "run" / "cdh.sock"

    @property
    def metrics(self) -> Path:
        """Directory of the metrics sockets."""
        return self.directory / "run" / "metrics"

    @property
    def bundle(self) -> Path:
        """Where the image is pulled to."""
        return self.directory / "bundle"


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """KBS with TLS and authenticated uploads, a registry, an empty directory; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="coco-", dir=_store_parent()))
    try:
        (directory / "run").mkdir()
        authority = CertificateAuthority.create()
        key = Ed25519PrivateKey.generate()
        admin_key = directory / "owner.pem"
        admin_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        rules = AdminRules(mode=AdminMode.AUTHENTICATED, keys=(key.public_key(),))
        tls = authority.issue("127.0.0.1", "localhost").context()
        async with Kbs(behaviour=Behaviour(admin=rules), tls=tls) as kbs, Registry() as registry:
            yield World(
                directory=directory,
                kbs=kbs,
                registry=registry,
                admin_key=admin_key,
                ca=authority.write(directory),
                rest_port=_free_port(8006),
            )
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    rootfs = directory / "bundle" / "rootfs"
    if rootfs.is_mount():
        subprocess.run(["umount", str(rootfs)], timeout=STOP_SECONDS, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def write_configs(place: World) -> tuple[Path, Path]:
    """The configuration files of AA and CDH, as a pod VM gets them."""
    ca = place.ca.read_text()
    aa, cdh = place.directory / "aa.toml", place.directory / "cdh.toml"
    aa.write_text(
        f'[token_configs.kbs]\nurl = "{place.kbs.url}"\ncert = """\n{ca}"""\n'
        '\n[attester]\ntee = "sample"\n'
    )
    cdh.write_text(
        f'socket = "unix://{place.cdh_socket}"\n'
        f'\n[aa]\naa_socket = "unix://{place.aa_socket}"\n'
        f'\n[kbc]\nname = "cc_kbc"\nurl = "{place.kbs.url}"\nkbs_cert = """\n{ca}"""\n'
        f'\n[image]\nwork_dir = "{place.directory}/store"\n'
        f'\n[[image.registry_config.registry]]\nlocation = "{place.registry.host}"\n'
        "insecure = true\n"
    )
    return aa, cdh


def service_commands(place: World, *, one_process: bool) -> list[list[str]]:
    """The command lines of the guest's services, in the order of start."""
    aa_config, cdh_config = write_configs(place)
    aa, cdh = f"unix://{place.aa_socket}", f"unix://{place.cdh_socket}"
    bind = f"127.0.0.1:{place.rest_port}"
    metrics = ["--metrics-dir", str(place.metrics)]
    runtime = ["--runtime-dir", str(place.directory / "run" / "cdh")]
    if one_process:
        serve = ["guest", "serve", "--aa-config", str(aa_config), "--cdh-config", str(cdh_config)]
        return [
            [
                *serve,
                "--attestation-sock",
                aa,
                "--bind",
                bind,
                "--features",
                "all",
                *runtime,
                *metrics,
            ]
        ]
    return [
        ["attestation-agent", "-a", aa, "-c", str(aa_config), *metrics],
        ["confidential-data-hub", "-c", str(cdh_config), *runtime, *metrics],
        ["api-server-rest", "-b", bind, "-f", "all", "-c", cdh, "-a", aa, *metrics],
    ]


@asynccontextmanager
async def services(place: World, commands: Sequence[list[str]]) -> AsyncIterator[None]:
    """The services while the block runs: each started when the one before it accepts.

    Raises:
        DemoError: a service ended, or did not accept in `START_SECONDS`.
    """
    waits = {
        "attestation-agent": (socket.AF_UNIX, str(place.aa_socket)),
        "confidential-data-hub": (socket.AF_UNIX, str(place.cdh_socket)),
    }
    rest = (socket.AF_INET, ("127.0.0.1", place.rest_port))
    running: list[asyncio.subprocess.Process] = []
    try:
        for command in commands:
            with (place.directory / f"{command[0]}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    str(BIN / command[0]), *command[1:], stdout=log, stderr=log
                )
            running.append(process)
            await _accepts(place, command[0], process, *waits.get(command[0], rest))
        yield
    finally:
        for process in reversed(running):
            await _stop(process)


async def _accepts(
    place: World,
    name: str,
    process: asyncio.subprocess.Process,
    family: int,
    address: str | tuple[str, int],
) -> None:
    for _ in range(int(START_SECONDS / 0.02)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(address) == 0:
                return
        if process.returncode is not None:
            break
        await asyncio.sleep(0.02)
    raise DemoError(f"{name} did not start:\n{tail(place, name)}")


def tail(place: World, name: str) -> str:
    """The last lines of a service's log."""
    lines = (place.directory / f"{name}.log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-15:])


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _store_parent() -> str:
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED:
        return str(MEMORY)
    return "/tmp"


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no free port on 127.0.0.1")
