"""Command line tools as processes, and a world for CDH's: KBS, agent's socket."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from guest.protos.methods import GET_TOKEN
from guest.rpc.method import Routes
from guest.rpc.server import serving
from guest.ttrpc.server import TtrpcServer
from guest_simulator.kbs.server import Kbs
from support.agents import ROOT, SECONDS, environment
from support.kbs_hub import AttestingAgent
from support.kbs_world import rcar_client
from support.secret_files import preamble


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


async def run_tool(
    entry: str,
    *arguments: object,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    module: str = "cdh.tools",
    stdin: bytes | None = None,
) -> Done:
    """Run `<module>.<entry>` to its end; `variables` are all that its environment has of ours."""
    script = preamble() + (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import {entry}; "
        f"sys.exit({entry}())"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", script, *map(str, arguments), cwd=cwd,
        env=environment(**(variables or {})),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return Done(process.returncode, out.decode(), err.decode())


@dataclass(frozen=True, slots=True)
class ToolWorld:
    """A KBS and the socket of an agent that attests to it.

    Attributes:
        kbs: as it is.
        agent: counts its tokens.
        aa_socket: address of the agent.
    """

    kbs: Kbs
    agent: AttestingAgent
    aa_socket: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment that leads a tool here."""
        return {"AA_KBC_PARAMS": f"cc_kbc::{self.kbs.url}", "AA_SOCKET": self.aa_socket}


@asynccontextmanager
async def tool_world(folder: Path) -> AsyncIterator[ToolWorld]:
    """Both, until the end of the block."""
    kbs = Kbs()
    kbs.put_resource("default/key/1", b"the secret")
    async with kbs, rcar_client(kbs.url) as client:
        agent = AttestingAgent(client)
        agent.gate.set()
        routes = Routes()
        routes.bind(GET_TOKEN, agent.get_token)
        address = f"unix://{folder}/aa.sock"
        async with serving(TtrpcServer(routes, address)):
            yield ToolWorld(kbs, agent, address)
