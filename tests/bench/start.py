"""How fast the services start, and what they hold in memory when idle."""

import http.client
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.place import Place, connect, free_port, read_frame, running, short_directory
from bench.row import Row

ROUNDS: Final = 20
IDLE_SECONDS: Final = 5.0

NO_KBS: Final = "http://127.0.0.1:9"
"""Nobody is there; a daemon that has a KBS holds more in memory when it is idle."""

GET_TEE_TYPE: Final = bytes.fromhex(
    "0000003e0000000101000a296174746573746174696f6e5f6167656e742e4174746573746174696f6e4167656e74"
    "53657276696365120a476574546565547970652080e8eda1ba01"
)
"""docs/spec/ttrpc.md 10, vector 15."""

GET_RESOURCE: Final = bytes.fromhex(
    "000000440000000101000a166170692e4765745265736f7572636553657276696365120b4765745265736f757263"
    "651a160a146b62733a2f2f2f64656661756c742f6b65792f312080e8eda1ba01"
)
"""docs/spec/ttrpc.md 10, vector 1: `kbs:///default/key/1`."""


def rows() -> list[Row]:
    """Start of each service and of all in one process; idle memory of both."""
    unit = statistics.median(bare() for _ in range(ROUNDS))
    result: list[Row] = []
    with short_directory() as directory:
        place = Place(directory=directory)
        place.write_configs()
        port = free_port()
        result += _start("attestation-agent", unit, 15, 40, lambda: _aa(place, place.aa_command()))
        result += _start("confidential-data-hub", unit, 15, 40, lambda: _cdh(place))
        result += _start("api-server-rest", unit, 15, 40, lambda: _rest(place, port))
        result += _start("guest serve", unit, 20, 60, lambda: _serve(place, port))
        result += _idle(replace(place, kbs=NO_KBS), port)
    return result


def bare() -> float:
    """Seconds that an interpreter takes to do nothing."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
    return time.perf_counter() - started


def _start(
    name: str,
    unit: float,
    connect_bar: float,
    answer_bar: float,
    measure: Callable[[], tuple[float, float]],
) -> list[Row]:
    samples = [measure() for _ in range(ROUNDS)]
    peer = f"python -I -c pass: {unit * 1000:.1f} ms"
    return [
        _row(f"start of {name}: fork to connect", connect_bar, [s[0] for s in samples], unit, peer),
        _row(f"start of {name}: fork to answer", answer_bar, [s[1] for s in samples], unit, peer),
    ]


def _row(name: str, bar: float, seconds: list[float], unit: float, peer: str) -> Row:
    middle = statistics.median(seconds)
    spread = f"{min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f} ms"
    return Row(name=name, bar=bar, value=middle / unit, unit="x", peer=f"{peer}; ours {spread}")


def _aa(place: Place, command: list[str]) -> tuple[float, float]:
    return _ttrpc(place, command, place.aa, GET_TEE_TYPE)


def _cdh(place: Place) -> tuple[float, float]:
    return _ttrpc(place, place.cdh_command(), place.cdh, GET_RESOURCE)


def _ttrpc(place: Place, command: list[str], path: str, request: bytes) -> tuple[float, float]:
    return first_answer(place.directory, command, path, request)


def first_answer(
    directory: Path, command: list[str], path: str, request: bytes
) -> tuple[float, float]:
    """Seconds from the fork of a ttRPC daemon to a connection, and to the answer of `request`."""
    Path(path).unlink(missing_ok=True)
    started = time.perf_counter()
    with running(command, directory / "output") as process:
        with connect(path, process) as connection:
            connected = time.perf_counter() - started
            connection.sendall(request)
            answer = read_frame(connection)
            answered = time.perf_counter() - started
    if answer[10:12] != b"\x0a\x00":
        raise SystemExit(f"{command[0]} answered {answer!r}")
    return connected, answered


def _rest(place: Place, port: int) -> tuple[float, float]:
    with ExitStack() as stack:
        log = place.directory / "log"
        aa = stack.enter_context(running(place.aa_command(), log))
        connect(place.aa, aa).close()
        started = time.perf_counter()
        process = stack.enter_context(running(place.rest_command(port), log))
        return _http(process, port, started)


def _serve(place: Place, port: int) -> tuple[float, float]:
    for path in (place.aa, place.cdh):
        Path(path).unlink(missing_ok=True)
    started = time.perf_counter()
    with running(place.serve_command(port), place.directory / "log") as process:
        return _http(process, port, started)


def _http(process: "subprocess.Popen[bytes]", port: int, started: float) -> tuple[float, float]:
    with connect(("127.0.0.1", port), process) as connection:
        connected = time.perf_counter() - started
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read()
        answered = time.perf_counter() - started
    if response.status != 200 or b'"tee":"sample"' not in body:
        raise SystemExit(f"/info answered {response.status} {body!r}")
    return connected, answered


def _idle(place: Place, port: int) -> list[Row]:
    place.write_configs()
    log = place.directory / "log"
    with running(place.serve_command(port), log) as process:
        connect(("127.0.0.1", port), process).close()
        time.sleep(IDLE_SECONDS)
        one = pss_of_family(process.pid)
    with ExitStack() as stack:
        processes = []
        for command, address in (
            (place.aa_command(), place.aa),
            (place.cdh_command(), place.cdh),
            (place.rest_command(port), ("127.0.0.1", port)),
        ):
            process = stack.enter_context(running(command, log))
            connect(address, process).close()
            processes.append(process)
        time.sleep(IDLE_SECONDS)
        parts = [pss_of_family(process.pid) for process in processes]
    shown = " + ".join(f"{part:.1f}" for part in parts)
    return [
        Row(name="idle memory of guest serve", bar=80, value=one, unit="MiB", peer="none; PSS"),
        Row(
            name="idle memory of three daemons",
            bar=120,
            value=sum(parts),
            unit="MiB",
            peer=f"none; PSS {shown}",
        ),
    ]


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    members, wanted = [], [pid]
    while wanted:
        parent = wanted.pop()
        members.append(parent)
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                wanted += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return members


def pss_of_family(pid: int) -> float:
    """Proportional set size of a process and its descendants in MiB."""
    return sum(pss(member) for member in family(pid))


def pss(pid: int) -> float:
    """Proportional set size of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the kernel reports no PSS")
