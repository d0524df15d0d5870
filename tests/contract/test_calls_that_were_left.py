"""What becomes of a call over ttRPC whose caller goes away, or whose time runs out."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

from attestation_agent.agent import Agent
from attestation_agent.eventlog.entry import read_entries
from attestation_agent.eventlog.files import LogFiles
from attestation_agent.eventlog.journal import Journal
from attestation_agent.rpc import AgentEdge
from guest.protos.aa_pb2 import ExtendRuntimeMeasurementRequest
from guest.protos.cdh_pb2 import SecureMountRequest
from guest.protos.methods import EXTEND_RUNTIME_MEASUREMENT, SECURE_MOUNT
from guest.rpc.method import Routes
from guest.ttrpc.server import TtrpcServer
from guest_simulator.tdx.guest import Fault
from support.hub_world import hub_routes
from support.storage_world import StorageWorld
from support.tdx_world import attester_of, make_guest
from support.ttrpc_wire import Wire, request

SECONDS: Final = 30.0
NANO: Final = 1_000_000_000


@asynccontextmanager
async def connected(routes: Routes, path: Path) -> AsyncIterator[Wire]:
    """A connection to a server of the routes."""
    server = TtrpcServer(routes, f"unix://{path}")
    await server.bind()
    await server.publish()
    wire = await Wire.connect(str(path))
    try:
        yield wire
    finally:
        wire.close()
        await server.drain()


@pytest.mark.parametrize("how", ["disconnect", "timeout"])
@pytest.mark.parametrize("program", range(4))
@pytest.mark.spec("ttrpc", 25)
async def test_a_mount_whose_caller_left_or_ran_out_of_time_leaves_nothing(
    how: str, program: int, short_tmp: Path
) -> None:
    world = StorageWorld(short_tmp)
    world.set_failure(program, "hang")
    mount = SecureMountRequest(
        volume_type="block-device",
        options=world.options(key="kbs:///default/key/1"),
        mount_point=world.place,
    )
    asked = request(
        1, payload=mount.SerializeToString(), service=SECURE_MOUNT.service,
        method=SECURE_MOUNT.name, timeout=0 if how == "disconnect" else 4 * NANO,
    )  # fmt: skip
    async with connected(hub_routes(mounts=world.mounts), short_tmp / "s") as wire:
        await wire.send(asked)
        async with asyncio.timeout(SECONDS):
            while not (world.base / "calls" / str(program) / "child").exists():
                await asyncio.sleep(0.01)
            if how == "timeout":
                assert (await wire.receive()).status[0] == 4
            wire.close()
            while world.left() or world.kernel.mounted:
                await asyncio.sleep(0.01)
    (world.base / "hang" / str(program)).unlink()
    await world.mount(world.options(key="kbs:///default/key/1", force="true"))
    assert len(world.kernel.mounted) == 1


@pytest.mark.parametrize("how", ["disconnect", "timeout"])
@pytest.mark.spec("ttrpc", 25)
async def test_a_measurement_whose_caller_left_or_ran_out_of_time_is_made(
    how: str, short_tmp: Path
) -> None:
    guest = make_guest(short_tmp)
    registers = attester_of(guest).registers
    assert registers is not None
    folder = short_tmp / "log"
    journal = Journal(registers, LogFiles(str(folder)), default_register=17)
    await journal.open()
    release = threading.Event()
    fault = Fault(path="rtmr3:sha384", call="write", block=release, times=1)
    guest.faults.append(fault)
    nobody = cast("Any", None)
    routes = AgentEdge(Agent(nobody, nobody, is_event_log_enabled=True, journal=journal)).routes()
    event = ExtendRuntimeMeasurementRequest(Domain="d", Operation="o", Content="c")
    asked = request(
        1, payload=event.SerializeToString(), service=EXTEND_RUNTIME_MEASUREMENT.service,
        method=EXTEND_RUNTIME_MEASUREMENT.name, timeout=0 if how == "disconnect" else NANO,
    )  # fmt: skip
    try:
        async with connected(routes, short_tmp / "s") as wire, asyncio.timeout(SECONDS):
            await wire.send(asked)
            while fault.times:
                await asyncio.sleep(0.005)
            if how == "timeout":
                assert (await wire.receive()).status[0] == 4
            wire.close()
            release.set()
            while not (folder / "eventlog").read_bytes():
                await asyncio.sleep(0.005)
    finally:
        release.set()
        await journal.close()
    assert [entry.text for entry in read_entries((folder / "eventlog").read_bytes())] == [b"d o c"]
    assert guest.domain.registers.read(3) != bytes(48)
