"""Evidence of a simulated TDX guest: what the agent adds, and what a slow device costs whom."""

import asyncio
import base64
import contextlib
import hashlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.place import BIN, connect, running, short_directory
from bench.row import Row
from bench.start import GET_TEE_TYPE, bare, first_answer
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import aa_pb2, methods
from guest.ttrpc.channel import TtrpcChannel
from guest_simulator.kbs.server import Kbs
from guest_simulator.tdx.mounted import MountError, in_namespace, mounted
from guest_simulator.tdx.verifier import TdxVerifier
from support.tdx_world import make_guest, parse_quote

FAST: Final = 0.05
"""Seconds of a quote while the agent's own share is measured."""

SLOW: Final = 1.0
CALLERS: Final = 20
FLOOD: Final = 40
SERVED: Final = 33
"""Calls of one connection that are taken: one is served, 32 wait."""

ROUNDS: Final = 60
STARTS: Final = 10
DEADLINE: Final = 50.0


@dataclass(frozen=True, slots=True)
class Served:
    """An agent that runs.

    Attributes:
        address: of its socket.
        directory: see `bench.tdx_agent`.
    """

    address: str
    directory: Path

    def lag(self) -> float:
        """Longest absence of its event loop so far, in seconds."""
        return float((self.directory / "lag").read_text())


def rows() -> list[Row]:
    """The agent's share of evidence; 20 callers; a flood beside CDH; the loop."""
    result = _start() + asyncio.run(_share())
    return result + asyncio.run(_slow_device())


def _start() -> list[Row]:
    """The installed command where the kernel is a simulated TDX guest's; needs root and FUSE."""
    unit = statistics.median(bare() for _ in range(STARTS))
    samples = []
    try:
        with short_directory() as directory, mounted(directory):
            config = directory / "aa.toml"
            config.write_text("[eventlog_config]\nenable_eventlog = true\n")
            socket = str(directory / "aa.sock")
            command = [str(BIN / "attestation-agent"), "-a", f"unix://{socket}"]
            command += ["-c", str(config), "--metrics-dir", ""]
            for _ in range(STARTS):
                samples.append(
                    first_answer(directory, in_namespace(directory, command), socket, GET_TEE_TYPE)
                )
    except (MountError, OSError, SystemExit) as error:
        print(f"no start on a TDX guest: {error}", file=sys.stderr)
        return []
    what, peer = "start of AA on a TDX guest: fork to", f"python -I -c pass: {unit * 1e3:.1f} ms"
    rows = []
    for at, (name, bar) in enumerate((("connect", 15), ("answer", 40))):
        value = statistics.median(sample[at] for sample in samples)
        rows.append(
            Row(name=f"{what} {name}", bar=bar, value=value / unit, unit="x",
                peer=f"{peer}; ours {value * 1e3:.0f} ms, a mount namespace included")
        )  # fmt: skip
    return rows


@contextmanager
def _agent(quote_seconds: float, kbs: str = "") -> Iterator[Served]:
    with short_directory() as directory:
        socket, config = directory / "aa.sock", directory / "aa.toml"
        config.write_text(f'[token_configs.kbs]\nurl = "{kbs}"\n' if kbs else "")
        command = [sys.executable, "-m", "bench.tdx_agent", str(directory), str(quote_seconds)]
        command += ["-a", f"unix://{socket}", "-c", str(config), "--metrics-dir", ""]
        with running(command, directory / "log") as process:
            connect(str(socket), process).close()
            yield Served(f"unix://{socket}", directory)


@asynccontextmanager
async def _channel(served: Served) -> AsyncIterator[TtrpcChannel]:
    channel = TtrpcChannel(served.address)
    try:
        yield channel
    finally:
        await channel.close()


async def _evidence(channel: TtrpcChannel, data: bytes) -> str:
    request = aa_pb2.GetEvidenceRequest(RuntimeData=data)
    response = await channel.call(methods.GET_EVIDENCE, request, deadline=Deadline.after(DEADLINE))
    text: str = json.loads(response.Evidence)["quote"]
    return text


async def _share() -> list[Row]:
    """What evidence takes beyond the hardware, with a firmware log to replay."""
    with _agent(FAST) as served:
        guest = make_guest(served.directory, quote_seconds=FAST)
        hardware, whole = [], []
        async with _channel(served) as channel:
            for number in range(ROUNDS + 5):
                data = hashlib.sha512(bytes((number,))).digest()
                started = time.perf_counter()
                guest.quote(data)
                hardware.append(time.perf_counter() - started)
                started = time.perf_counter()
                await _evidence(channel, data)
                whole.append(time.perf_counter() - started)
    taken, ours = statistics.median(hardware[5:]), statistics.median(whole[5:])
    return [
        Row(
            name="evidence beyond what the hardware takes, p50", bar=5, value=(ours - taken) * 1e3,
            unit="ms", peer=f"simulated quote {taken * 1e3:.1f} ms; whole {ours * 1e3:.1f} ms",
        )
    ]  # fmt: skip


async def _slow_device() -> list[Row]:
    async with Kbs() as kbs:
        with _agent(SLOW, kbs.url) as served:
            root = (served.directory / "root.pem").read_bytes()
            kbs.behaviour.verifiers["tdx"] = TdxVerifier(root=root)
            result = await _callers(served, root)
            result += await _flood(served)
            lag = served.lag()
    peer = "none; seen from a thread of its own, 5 ms apart"
    return [
        *result,
        Row(name="longest absence of AA's event loop", bar=50, value=lag * 1e3, unit="ms",
            peer=peer),
    ]  # fmt: skip


async def _callers(served: Served, root: bytes) -> list[Row]:
    """Twenty at once on connections of their own."""
    data = [hashlib.sha512(bytes((number,))).digest() for number in range(CALLERS)]
    channels = [TtrpcChannel(served.address) for _ in data]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_evidence(channel, each))
            for channel, each in zip(channels, data, strict=True)
        ]
    seconds = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    quotes = [parse_quote(base64.b64decode(task.result()), root) for task in tasks]
    own = sum(quote.report_data == each for quote, each in zip(quotes, data, strict=True))
    peer = f"a quote takes {SLOW:g} s; deadline {DEADLINE:g} s"
    return [
        Row(name=f"{CALLERS} callers of a slow device, slowest", bar=DEADLINE, value=seconds,
            unit="s", peer=peer),
        Row(name="of these with evidence for their own report data", bar=CALLERS, value=own,
            unit="callers", peer=peer, kind="exactly"),
    ]  # fmt: skip


class _Flood:
    """One connection that always has as many calls as it may, and more at first."""

    def __init__(self, channel: TtrpcChannel) -> None:
        self._channel = channel
        self.refused: list[float] = []
        self.begun = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(FLOOD):
                group.create_task(self._keep_asking(number))

    async def _keep_asking(self, number: int) -> None:
        while True:
            started = time.perf_counter()
            try:
                await _evidence(self._channel, bytes((number,)))
            except GuestError as error:
                if "calls of this connection wait" not in str(error):
                    raise
                self.refused.append(time.perf_counter() - started)
                if len(self.refused) >= FLOOD - SERVED:
                    self.begun.set()
                return


async def _flood(served: Served) -> list[Row]:
    """REST floods its connection while CDH asks for a token and somebody for the TEE."""
    tee_seconds: list[float] = []
    async with _channel(served) as rest, _channel(served) as cdh, _channel(served) as other:
        flood = _Flood(rest)
        flooding = asyncio.create_task(flood.run(), name="flood")
        await flood.begun.wait()
        refused = len(flood.refused)
        request = aa_pb2.GetTokenRequest(TokenType="kbs")
        started = time.perf_counter()
        fetching = asyncio.create_task(
            cdh.call(methods.GET_TOKEN, request, deadline=Deadline.after(DEADLINE)), name="token"
        )
        while not fetching.done():
            before = time.perf_counter()
            await other.call(
                methods.GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest(), deadline=Deadline.after(10)
            )
            tee_seconds.append(time.perf_counter() - before)
            await asyncio.sleep(0.005)
        await fetching
        seconds = time.perf_counter() - started
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flooding
    peer = f"{SERVED} calls of REST always there; a quote takes {SLOW:g} s"
    worst = max(flood.refused) * 1e3
    slow = sorted(tee_seconds)[int(len(tee_seconds) * 0.99)]
    middle = statistics.median(tee_seconds) * 1e3
    return [
        Row(name="CDH's token while REST floods", bar=5, value=seconds, unit="s", peer=peer),
        Row(name=f"refused at once, of {FLOOD} calls of one connection", bar=FLOOD - SERVED,
            value=refused, unit="calls", peer=f"slowest refusal {worst:.1f} ms", kind="exactly"),
        Row(name="GetTeeType meanwhile, p99", bar=10, value=slow * 1e3, unit="ms",
            peer=f"{len(tee_seconds)} calls; p50 {middle:.2f} ms"),
    ]  # fmt: skip
