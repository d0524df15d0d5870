"""When the socket of a TDX guest's agent appears, and what init data binds there."""

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from attestation_agent.component import AttestationAgent
from attestation_agent.launch import LaunchData
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest.initdata import InitData
from guest.protos import aa_pb2, methods
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer
from guest_simulator.tdx.guest import Fault, TdxGuest
from support.agents import config_of
from support.tdx_world import hints_of, make_guest

ENABLED: Final[dict[str, Any]] = {"eventlog_config": {"enable_eventlog": True}}
DOCUMENT: Final = b'version = "0.1.0"\nalgorithm = "sha512"\n\n[data]\n"aa.toml" = "x"\n'
RECORD: Final = bytes(8) + bytes(48) + b"domain operation content"
"""The write-ahead record of an event that has reached the register, which holds zeros."""


def soon() -> Deadline:
    return Deadline.after(30)


def leave_behind(path: Path) -> int:
    """A socket file whose server is dead; gives its inode."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path.lstat().st_ino


def agent_at(path: Path, guest: TdxGuest) -> AttestationAgent:
    digest = InitData.parse(DOCUMENT).digest().value
    guest.domain.config_id = digest[:48]
    return AttestationAgent(
        config_of(**ENABLED),
        lambda routes: TtrpcServer(routes, f"unix://{path}"),
        hints=hints_of(guest),
        launch=LaunchData(digest=digest, text=DOCUMENT.decode()),
    )


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.spec("attestation-agent", 3)
@pytest.mark.parametrize("step", ["/mrconfigid", "/rtmr3:sha384"])
async def test_a_stale_socket_gives_way_only_when_init_data_and_event_log_are_ready(
    short_tmp: Path, step: str
) -> None:
    guest = make_guest(short_tmp)
    record = short_tmp / "run" / "attestation-agent" / ".wal_event_entry"
    record.parent.mkdir(parents=True)
    record.write_bytes(RECORD)
    path = short_tmp / "aa.sock"
    stale = leave_behind(path)
    release = threading.Event()
    fault = Fault(path=step, call="read", block=release, times=1)
    guest.faults.append(fault)
    ready, stop = asyncio.Event(), asyncio.Event()
    agent = agent_at(path, guest)
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run(ready=ready.set, stop=stop), name="agent")
        while fault.times:
            await asyncio.sleep(0.001)
        done, _ = await asyncio.wait((group.create_task(ready.wait()),), timeout=0.05)
        assert not done
        assert path.lstat().st_ino == stale
        assert not accepts(path)
        release.set()
        await ready.wait()
        assert path.lstat().st_ino != stale
        channel = TtrpcChannel(f"unix://{path}")
        answer = await channel.call(
            methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=soon()
        )
        assert answer.tee == "tdx"
        await channel.close()
        stop.set()
    assert not path.exists()
    assert not record.exists()


@pytest.mark.spec("attestation-agent", 3)
@pytest.mark.parametrize("broken", ["init data", "event log"])
async def test_a_start_that_is_refused_leaves_the_stale_socket_as_it_was(
    short_tmp: Path, broken: str
) -> None:
    guest = make_guest(short_tmp)
    path = short_tmp / "aa.sock"
    stale = leave_behind(path)
    agent = agent_at(path, guest)
    if broken == "init data":
        guest.domain.config_id = bytes(48)
    else:
        record = short_tmp / "run" / "attestation-agent" / ".wal_event_entry"
        record.parent.mkdir(parents=True)
        record.write_bytes(RECORD[:55])
    with pytest.raises(PlatformError):
        await agent.run(ready=lambda: pytest.fail("ready"), stop=asyncio.Event())
    assert path.lstat().st_ino == stale
    assert not accepts(path)
    left = [name for name in os.listdir(short_tmp) if name.startswith(".")]
    assert left == [], "what was bound under another name is gone"
