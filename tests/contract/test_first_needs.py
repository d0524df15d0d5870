"""What hub and agent import beforehand is what the first encrypted pull needs: all of it, no more.

Both run as processes of their own that tell their modules when asked.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestation_agent.config import AaConfig
from attestation_agent.first_needs import first_needs as needs_of_agent
from cdh.config import CdhConfig
from cdh.first_needs import first_needs as needs_of_hub
from guest.config import read_config
from guest.deadline import Deadline
from guest.protos.cdh_pb2 import ImagePullRequest
from guest.protos.methods import PULL_IMAGE
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.images.entries import Entry, Kind
from guest_simulator.images.image import Compression, Layer, build_image
from guest_simulator.kbs.server import Kbs
from guest_simulator.registry.server import Registry
from support.agents import ROOT, SECONDS, environment
from support.encrypted_image import push_encrypted, wrapped_by_kek

KEK = bytes(range(32))
KID = "kbs:///default/image-kek/1"

WATCHED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import os, threading
told = os.dup(1)
def tell():
    for line in sys.stdin:
        os.write(told, ("\\n".join(list(sys.modules)) + "\\n\\n").encode())
threading.Thread(target=tell, daemon=True).start()
root = sys.argv.pop(1)
__import__(root)
sys.modules[root].main()
"""

MAX_STANDARD = 3
"""Modules of the standard library that may be missing: each Python version splits it anew, and
what of it an event loop uses is that loop's affair."""


def of_standard_library(modules: Iterable[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] in sys.stdlib_module_names}


@dataclass(frozen=True)
class Daemon:
    """A command that runs.

    Attributes:
        process: takes a line on standard input, answers with its modules.
        socket: where it listens.
        needs: what its first requests import.
    """

    process: "subprocess.Popen[str]"
    socket: Path
    needs: tuple[str, ...]

    def modules(self) -> set[str]:
        """What it has imported."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("modules\n")
        self.process.stdin.flush()
        lines = iter(self.process.stdout.readline, "\n")
        return {line.strip() for line in lines if line}

    async def warmed_up(self) -> set[str]:
        """Its modules once all of its needs are among them."""
        give_up = time.monotonic() + SECONDS
        while missing := set(self.needs) - (found := await asyncio.to_thread(self.modules)):
            assert time.monotonic() < give_up, f"not imported: {sorted(missing)}"
            await asyncio.sleep(0.1)
        return found


@contextmanager
def daemon(root: str, socket: Path, needs: tuple[str, ...], *arguments: str) -> Iterator[Daemon]:
    command = [sys.executable, "-I", "-c", WATCHED, root, *arguments, "--metrics-dir", ""]
    process = subprocess.Popen(
        command, env=environment(RUST_LOG="warn"), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        give_up = time.monotonic() + SECONDS
        while not socket.exists():
            assert process.poll() is None, root
            assert time.monotonic() < give_up, "no socket"
            time.sleep(0.005)
        yield Daemon(process, socket, needs)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory; what a pull has mounted in it is unmounted."""
    path = Path(tempfile.mkdtemp(prefix="cg", dir="/dev/shm"))
    yield path
    if (path / "bundle" / "rootfs").is_mount():
        subprocess.run(["umount", str(path / "bundle" / "rootfs")], timeout=SECONDS, check=True)
    shutil.rmtree(path, ignore_errors=True)


def agent_of(base: Path, kbs: str) -> tuple[Path, AaConfig]:
    path = base / "aa.toml"
    path.write_text(f'[token_configs.kbs]\nurl = "{kbs}"\n[attester]\ntee = "sample"\n')
    return path, read_config(path, AaConfig)


def hub_of(base: Path, kbs: str, registry: str) -> tuple[Path, CdhConfig]:
    path = base / "cdh.toml"
    path.write_text(
        f'socket = "unix://{base}/cdh.sock"\n[aa]\naa_socket = "unix://{base}/aa.sock"\n'
        f'[kbc]\nname = "cc_kbc"\nurl = "{kbs}"\n[image]\nwork_dir = "{base}/store"\n'
        f'[[image.registry_config.registry]]\nlocation = "{registry}"\ninsecure = true\n'
    )
    return path, read_config(path, CdhConfig)


@contextmanager
def daemons(base: Path, kbs: str, registry: str) -> Iterator[tuple[Daemon, Daemon]]:
    """Agent and hub."""
    aa_path, aa_config = agent_of(base, kbs)
    cdh_path, cdh_config = hub_of(base, kbs, registry)
    with ExitStack() as stack:
        socket, needs = base / "aa.sock", needs_of_agent(aa_config.token_configs)
        arguments = ("-a", f"unix://{socket}", "-c", str(aa_path))
        agent = daemon("attestation_agent.main", socket, needs, *arguments)
        socket, needs = base / "cdh.sock", needs_of_hub(cdh_config)
        arguments = ("-c", str(cdh_path), "--runtime-dir", f"{base}/rt")
        hub = daemon("cdh.main", socket, needs, *arguments)
        yield stack.enter_context(agent), stack.enter_context(hub)


def encrypted_image(kbs: Kbs, registry: Registry) -> str:
    kbs.put_resource("default/image-kek/1", KEK)
    layers = [
        Layer(entries=(Entry(kind=Kind.FILE, path=f"f{n}", data=bytes(200_000)),), compression=each)
        for n, each in enumerate((Compression.GZIP, Compression.ZSTD))
    ]
    return push_encrypted(registry, "demo/app", build_image(layers), wrapped_by_kek(KEK, KID))


async def pull(hub: Daemon, reference: str, bundle: Path) -> None:
    channel = TtrpcChannel(f"unix://{hub.socket}")
    request = ImagePullRequest(image_url=reference, bundle_path=str(bundle))
    await channel.call(PULL_IMAGE, request, deadline=Deadline.after(SECONDS))
    await channel.close()


async def test_a_pull_after_the_warm_up_imports_nothing_more(base: Path) -> None:
    async with Kbs() as kbs, Registry() as registry:
        reference = encrypted_image(kbs, registry)
        with daemons(base, kbs.url, registry.host) as (agent, hub):
            before = {each: await each.warmed_up() for each in (agent, hub)}
            await pull(hub, reference, base / "bundle")
            late = {each: await asyncio.to_thread(each.modules) - before[each] for each in before}
    for each, modules in late.items():
        standard = of_standard_library(modules)
        assert modules - standard == set(), each.socket.name
        assert len(standard) <= MAX_STANDARD, sorted(standard)


async def test_nothing_is_imported_that_the_first_pull_does_not_need(base: Path) -> None:
    async with Kbs() as kbs, Registry() as registry:
        reference = encrypted_image(kbs, registry)
        with daemons(base, kbs.url, registry.host) as (agent, hub):
            await pull(hub, reference, base / "bundle")
            for each in (agent, hub):
                found = await asyncio.to_thread(each.modules)
                in_vain = set(each.needs) - found
                assert in_vain - of_standard_library(in_vain) == set(), each.socket.name


def test_who_has_nobody_to_ask_for_tokens_imports_nothing_for_them(base: Path) -> None:
    (base / "empty.toml").write_text("")
    assert needs_of_agent(read_config(base / "empty.toml", AaConfig).token_configs) == ()
    (base / "cdh.toml").write_text('[kbc]\nname = "offline_fs_kbc"\n')
    needs = needs_of_hub(read_config(base / "cdh.toml", CdhConfig))
    assert "image_pull.component" in needs
    assert not [name for name in needs if ".kbs" in name]
