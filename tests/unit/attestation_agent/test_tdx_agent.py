"""The agent of a TDX guest, from its methods to its registers."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import pytest

from attestation_agent.attesters.base import QuoteChoice
from attestation_agent.launch import LaunchData
from guest.deadline import Deadline
from guest.errors import ConfigError, GuestError, PlatformError
from guest.initdata import InitData
from guest.protos import aa_pb2, methods
from guest.rpc.inprocess import InProcessChannel
from guest.rpc.method import Channel
from guest_simulator.tdx.guest import Fault, TdxGuest
from support.agents import config_of, environment, make_agent, running
from support.tdx_world import boot, hints_of, make_guest, parse_quote, replay_log

ENABLED: Final[dict[str, Any]] = {"eventlog_config": {"enable_eventlog": True}}
DOCUMENT = b'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"aa.toml" = "x"\n'


def soon() -> Deadline:
    return Deadline.after(30)


def agent_of(guest: TdxGuest, *, launch: LaunchData | None = None, **tables: Any) -> Any:
    config = config_of(**tables)
    return make_agent(Path(guest.root), config, launch=launch, hints=hints_of(guest))


async def extend(channel: Channel, content: str, **more: Any) -> int:
    request = aa_pb2.ExtendRuntimeMeasurementRequest(
        Domain="domain", Operation="operation", Content=content, **more
    )
    response = await channel.call(methods.EXTEND_RUNTIME_MEASUREMENT, request, deadline=soon())
    return response.Result


async def evidence(channel: Channel, data: bytes) -> dict[str, str]:
    import json

    request = aa_pb2.GetEvidenceRequest(RuntimeData=data)
    response = await channel.call(methods.GET_EVIDENCE, request, deadline=soon())
    value: dict[str, str] = json.loads(response.Evidence)
    return value


async def test_a_measured_event_is_in_the_evidence_that_follows(short_tmp: Path) -> None:
    from guest.wire import decode_base64

    guest = make_guest(short_tmp)
    boot(guest)
    async with running(agent_of(guest, **ENABLED)) as channel:
        tee = await channel.call(methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=soon())
        assert tee.tee == "tdx"
        assert await extend(channel, "content") == aa_pb2.OK
        assert await extend(channel, "content", RegisterIndex=9) == aa_pb2.OK
        found = await evidence(channel, b"data")
    parsed = parse_quote(decode_base64(found["quote"]), guest.platform.root)
    assert parsed.report_data == b"data".ljust(64, b"\0")
    replayed = replay_log(decode_base64(found["cc_eventlog"]))
    assert [replayed[index] for index in (1, 2, 3, 4)] == list(parsed.registers)


@pytest.mark.spec("attestation-agent", 29)
async def test_content_with_a_newline_touches_neither_register_nor_log(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    async with running(agent_of(guest, **ENABLED)) as channel:
        with pytest.raises(GuestError, match="content contains newline"):
            await extend(channel, "a\nb")
    assert guest.domain.registers.all() == (bytes(48),) * 4
    folder = short_tmp / "run" / "attestation-agent"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"eventlog": b""}


async def test_a_kernel_without_registers_is_not_supported_and_the_agent_runs(
    short_tmp: Path,
) -> None:
    guest = make_guest(short_tmp, has_registers=False)
    async with running(agent_of(guest, **ENABLED)) as channel:
        assert await extend(channel, "content") == aa_pb2.NOT_SUPPORTED
        assert (await evidence(channel, b""))["quote"]
    guest = make_guest(short_tmp)
    async with running(agent_of(guest)) as channel:
        assert await extend(channel, "content") == aa_pb2.NOT_ENABLED
    assert not (short_tmp / "run").exists()


async def test_a_log_that_cannot_be_recovered_refuses_the_start(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    folder = short_tmp / "run" / "attestation-agent"
    folder.mkdir(parents=True)
    (folder / ".wal_event_entry").write_bytes(bytes(7))
    agent = agent_of(guest, **ENABLED)
    with pytest.raises(PlatformError) as caught:
        await agent.run(ready=lambda: None, stop=asyncio.Event())
    assert ": ".join(caught.value.causes()).startswith("init AA: Failed to read wal cache.")


async def test_the_tee_is_told_while_a_quote_takes_its_time(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    release = threading.Event()
    fault = Fault(path="/outblob", call="read", block=release, times=1)
    guest.faults.append(fault)
    async with running(agent_of(guest)) as channel, asyncio.TaskGroup() as group:
        quoting = group.create_task(evidence(channel, b""))
        while fault.times:
            await asyncio.sleep(0.001)
        times = []
        for _ in range(20):
            before = time.monotonic()
            await channel.call(methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=soon())
            times.append(time.monotonic() - before)
        assert not quoting.done()
        assert sorted(times)[10] < 0.1
        release.set()


def test_configuration_chooses_the_source_of_quotes(short_tmp: Path) -> None:
    from attestation_agent.config import AaConfig
    from guest.config import read_config

    file = short_tmp / "aa.toml"
    file.write_text('[attester.tdx]\nquote = "vsock"\nquoting_service = "vsock://2:4050"\n')
    config = read_config(file, AaConfig)
    assert config.attester.tdx.quote is QuoteChoice.VSOCK
    for wrong in ('quote = "x"', 'quoting_service = "tcp://127.0.0.1:1"', 'quoting_service = "x"'):
        file.write_text(f"[attester.tdx]\n{wrong}\n")
        with pytest.raises(ConfigError):
            read_config(file, AaConfig)


async def test_a_chosen_source_that_is_not_there_is_named(short_tmp: Path) -> None:
    guest = make_guest(short_tmp)
    agent = agent_of(guest, attester={"tdx": {"quote": "vsock"}})
    async with running(agent) as channel:
        with pytest.raises(GuestError, match="no source of TD quotes: vsock: no service is conf"):
            await evidence(channel, b"")


CHILD = """
import sys
sys.path[:0] = {paths!r}
from attestation_agent import main
from support.tdx_world import hints_of, make_guest
from pathlib import Path
guest = make_guest(Path({root!r}))
guest.domain.config_id = bytes.fromhex({config_id!r})
main.read_hints = lambda environment: hints_of(guest)
sys.argv[0] = "attestation-agent"
main.main()
"""


@pytest.mark.spec("attestation-agent", 39)
async def test_init_data_decides_whether_the_command_starts(
    short_tmp: Path, repository: Path
) -> None:
    from guest.wire import encode_base64

    digest = InitData.parse(DOCUMENT).digest().value
    paths = [str(repository / name) for name in (".", "tests", "simulator")]
    socket = short_tmp / "s"
    outcomes = []
    for config_id in (digest, bytes(48)):
        script = CHILD.format(paths=paths, root=str(short_tmp), config_id=config_id.hex())
        process = subprocess.Popen(
            [sys.executable, "-c", script, "-a", f"unix://{socket}", "--metrics-dir", "",
             "-i", encode_base64(digest)],
            env=dict(environment()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while process.poll() is None and not os.path.exists(socket):
                await asyncio.sleep(0.01)
            outcomes.append(process.poll())
            process.terminate()
            _, text = await asyncio.to_thread(process.communicate)
        finally:
            process.kill()
    assert outcomes[0] is None
    assert outcomes[1] not in (None, 0)
    assert "Init data does not match!" in text


async def test_a_flooded_device_serves_another_connection_in_its_turn(short_tmp: Path) -> None:
    guest = make_guest(short_tmp, quote_seconds=0.01)
    agent = agent_of(guest)
    order: list[str] = []
    refusals: list[str] = []

    async def ask(channel: Channel, name: str) -> None:
        try:
            await evidence(channel, name.encode())
            order.append(name)
        except GuestError as error:
            refusals.append(str(error))

    async with running(agent) as flooding:
        other = InProcessChannel(agent.routes)
        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(ask(flooding, "flood"))
            while not refusals:
                await asyncio.sleep(0.001)
            group.create_task(ask(other, "cdh"))
        await other.close()
    assert len(refusals) == 40 - 33
    assert all("32 calls of this connection wait" in text for text in refusals)
    assert order.count("flood") == 33
    assert order.index("cdh") < 20
