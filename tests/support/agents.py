"""Attestation agents for tests: in this process with made-up hardware, and as a process."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from attestation_agent.attesters.base import TeeHints
from attestation_agent.component import AttestationAgent
from attestation_agent.config import AaConfig
from attestation_agent.launch import LaunchData
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import Channel, Routes
from guest.rpc.server import Server
from support.secret_files import preamble

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 30.0


class NoServer:
    """A server that nobody can reach; notes what is asked of it."""

    address = "nowhere"

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def bind(self) -> None:
        self.notes.append("bind")

    async def publish(self) -> None:
        self.notes.append("publish")

    async def drain(self, grace: float = 5.0) -> None:
        self.notes.append("drain")


def config_of(**tables: object) -> AaConfig:
    """A configuration with these tables."""
    return msgspec.convert(tables, AaConfig)


def make_agent(
    root: Path,
    config: AaConfig | None = None,
    *,
    devices: bool = False,
    launch: LaunchData | None = None,
    grpc: bool = False,
    server: Server | None = None,
    hints: TeeHints | None = None,
) -> AttestationAgent:
    """An agent on a machine whose devices are the files below `root`."""

    def open_server(routes: Routes) -> Server:
        return server or NoServer()

    hints = hints or TeeHints(root=str(root), sample_device=devices)
    chosen = config or AaConfig()
    return AttestationAgent(chosen, open_server, hints=hints, launch=launch, grpc=grpc)


@asynccontextmanager
async def running(agent: AttestationAgent) -> AsyncIterator[Channel]:
    """Run it until the end of the block; gives an in-process channel."""
    stop, ready = asyncio.Event(), asyncio.Event()
    channel = InProcessChannel(agent.routes)
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run(ready=ready.set, stop=stop), name="agent")
        await ready.wait()
        try:
            yield channel
        finally:
            await channel.close()
            stop.set()


def agent_command(*arguments: str, module: str = "attestation_agent.main") -> list[str]:
    """The command line of the installed command, without needing it installed."""
    script = preamble() + (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; "
        "sys.argv[0] = 'attestation-agent'; sys.exit(main())"
    )
    return [sys.executable, "-I", "-c", script, *arguments]


def environment(**names: str) -> Mapping[str, str]:
    """What the process gets: of ours nothing that it reads, and no TPM of this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {"AA_TPM_DEVICE": "/dev/no-tpm"} | names


def run_agent(*arguments: str, **names: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        agent_command(*arguments), env=environment(**names), text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=SECONDS,
    )  # fmt: skip


@contextmanager
def agent_process(
    socket: Path, arguments: Sequence[str] = (), **names: str
) -> Iterator[subprocess.Popen[str]]:
    """The command as a process that has published its socket; killed at the end if need be."""
    command = agent_command("-a", f"unix://{socket}", "--metrics-dir", "", *arguments)
    process = subprocess.Popen(
        command, env=environment(**names), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    before = _identity(socket)
    give_up = time.monotonic() + SECONDS
    try:
        while _identity(socket) in (None, before):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < give_up, "no socket"
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_ctime_ns)
