"""The command itself, unchanged, on a machine whose kernel is a simulated TDX guest's.

A mount namespace of its own has the simulated interfaces at `/sys` and an empty `/run`.
"""

import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from guest.deadline import Deadline
from guest.initdata import InitData
from guest.protos import aa_pb2, methods
from guest.rpc.method import Channel
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.tdx.ccel import BOOT, area_of, digest_of, log_of
from guest_simulator.tdx.mounted import MountedGuest, in_namespace, mounted
from support.agents import SECONDS, agent_command, environment
from support.tdx_world import parse_quote, replay_log

# The agent is another process: waiting for it blocks no loop of its own.
pytestmark = [
    pytest.mark.root,
    pytest.mark.mount,
    pytest.mark.fuse,
    pytest.mark.blocks_loop,
]

DOCUMENT: Final = b'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"aa.toml" = "x"\n'


@pytest.fixture
def guest(short_tmp: Path) -> Iterator[MountedGuest]:
    with mounted(short_tmp) as made:
        (short_tmp / "log").mkdir()
        yield made


def command_on(guest: MountedGuest, *arguments: str) -> list[str]:
    config = guest.root / "aa.toml"
    config.write_text("[eventlog_config]\nenable_eventlog = true\n")
    words = ["-c", str(config), "--metrics-dir", "", *arguments]
    return in_namespace(guest.root, agent_command(*words))


@contextmanager
def started(guest: MountedGuest, *arguments: str) -> Iterator[Path]:
    """The agent's socket while it serves."""
    path = guest.root / "aa.sock"
    process = subprocess.Popen(
        command_on(guest, "-a", f"unix://{path}", *arguments), env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    give_up = time.monotonic() + SECONDS
    try:
        while not path.is_socket():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < give_up, "no socket"
            time.sleep(0.005)
        yield path
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "python" in maps
        assert "tss2" not in maps, "no TPM library where there is no use for it"
    finally:
        process.terminate()
        _, text = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, text


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Channel]:
    channel = TtrpcChannel(f"unix://{path}")
    try:
        yield channel
    finally:
        await channel.close()


async def extend(channel: Channel, content: str) -> None:
    request = aa_pb2.ExtendRuntimeMeasurementRequest(
        Domain="domain", Operation="operation", Content=content
    )
    deadline = Deadline.after(SECONDS)
    response = await channel.call(methods.EXTEND_RUNTIME_MEASUREMENT, request, deadline=deadline)
    assert response.Result == aa_pb2.OK


async def evidence(channel: Channel) -> dict[str, Any]:
    request = aa_pb2.GetEvidenceRequest(RuntimeData=b"data")
    response = await channel.call(methods.GET_EVIDENCE, request, deadline=Deadline.after(SECONDS))
    found: dict[str, Any] = json.loads(response.Evidence)
    return {name: base64.b64decode(text) for name, text in found.items()}


async def test_it_measures_attests_and_goes_on_after_a_restart(guest: MountedGuest) -> None:
    for event in BOOT:
        guest.order(extend=[event.register - 1, digest_of(event).hex()])
    guest.order(ccel=area_of(log_of(BOOT)).hex())
    for content in ("first", "second"):
        with started(guest) as path:
            async with connected(path) as channel:
                tee = await channel.call(
                    methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=Deadline.after(9)
                )
                assert tee.tee == "tdx"
                await extend(channel, content)
                found = await evidence(channel)
    state = guest.order()
    parsed = parse_quote(found["quote"], state["root"].encode())
    assert parsed.report_data == b"data".ljust(64, b"\0")
    assert [value.hex() for value in parsed.registers] == state["registers"]
    replayed = replay_log(found["cc_eventlog"])
    assert [replayed[index] for index in (1, 2, 3, 4)] == list(parsed.registers)
    assert found["cc_eventlog"].count(b"domain operation") == 2
    assert state["instances"] == []


async def test_it_starts_with_the_init_data_of_this_guest_alone(guest: MountedGuest) -> None:
    document = guest.root / "i.toml"
    document.write_bytes(DOCUMENT)
    done = subprocess.run(
        command_on(guest, "-a", f"unix://{guest.root}/aa.sock", "-t", str(document)),
        env=environment(), text=True, capture_output=True, stdin=subprocess.DEVNULL,
        timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Init data does not match!" in done.stderr
    guest.order(config_id=InitData.parse(DOCUMENT).digest().value.hex())
    with started(guest, "-t", str(document)) as path:
        async with connected(path) as channel:
            assert (await evidence(channel))["quote"]
