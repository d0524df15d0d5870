"""ttRPC beside `grpc.aio`: unary echo over a Unix socket, two processes each.

`python -m bench.echo serve KIND SOCKET` and `... call KIND SOCKET COUNT` are the two processes.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.row import Row
from guest.deadline import Deadline
from guest.protos import methods
from guest.protos.cdh_pb2 import GetResourceRequest, GetResourceResponse
from guest.rpc.grpc import GrpcChannel, GrpcServer
from guest.rpc.method import CallContext, Channel, Routes
from guest.rpc.server import Server, serving
from guest.ttrpc.channel import TtrpcChannel
from guest.ttrpc.server import TtrpcServer

CALLS: Final = 5000
WARM_UP: Final = 300
ROUNDS: Final = 3
PAYLOAD: Final = 64
BAR: Final = 0.5
KINDS: Final = ("ttrpc", "grpc", "bare-grpc")
"""`grpc` is our own gRPC transport, `bare-grpc` the library with nothing of ours around it."""

BARE_PATH: Final = "/bench.Echo/Echo"


async def _echo(request: GetResourceRequest, context: CallContext) -> GetResourceResponse:
    return GetResourceResponse(Resource=request.ResourcePath.encode())


async def _serve(kind: str, path: str) -> None:
    if kind == "bare-grpc":
        await _serve_bare(path)
        return
    routes = Routes()
    routes.bind(methods.GET_RESOURCE, _echo)
    make = TtrpcServer if kind == "ttrpc" else GrpcServer
    server: Server = make(routes, f"unix://{path}")
    async with serving(server):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def _serve_bare(path: str) -> None:
    import grpc.aio

    async def echo(request: GetResourceRequest, context: object) -> GetResourceResponse:
        return GetResourceResponse(Resource=request.ResourcePath.encode())

    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=GetResourceRequest.FromString,
        response_serializer=GetResourceResponse.SerializeToString,
    )
    service, method = BARE_PATH.strip("/").split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


async def _call(kind: str, path: str, count: int) -> list[float]:
    request = GetResourceRequest(ResourcePath="x" * PAYLOAD)
    if kind == "bare-grpc":
        return await _call_bare(path, request, count)
    address = f"unix://{path}"
    channel: Channel = TtrpcChannel(address) if kind == "ttrpc" else GrpcChannel(address)
    seconds = []
    for _ in range(WARM_UP + count):
        started = time.perf_counter()
        await channel.call(methods.GET_RESOURCE, request, deadline=Deadline.after(50))
        seconds.append(time.perf_counter() - started)
    await channel.close()
    return seconds[WARM_UP:]


async def _call_bare(path: str, request: GetResourceRequest, count: int) -> list[float]:
    import grpc.aio

    seconds = []
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary(
            BARE_PATH,
            request_serializer=GetResourceRequest.SerializeToString,
            response_deserializer=GetResourceResponse.FromString,
        )
        for _ in range(WARM_UP + count):
            started = time.perf_counter()
            await call(request, timeout=50)
            seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def _measure_one(kind: str, directory: str, count: int) -> float:
    """Median of one round, in seconds."""
    path = f"{directory}/{kind}.sock"
    base = [sys.executable, "-m", "bench.echo"]
    place = Path(__file__).resolve().parent.parent
    command = [*base, "serve", kind, path]
    with subprocess.Popen(
        command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            assert server.stdout.readline() == "ready\n", f"{kind} server did not start"
            caller = [*base, "call", kind, path, str(count)]
            done = subprocess.run(
                caller, cwd=place, capture_output=True, text=True, timeout=300, check=True
            )
        finally:
            server.stdin.close()
    Path(path).unlink(missing_ok=True)
    seconds: list[float] = json.loads(done.stdout)
    return statistics.median(seconds)


def measure(count: int = CALLS, rounds: int = ROUNDS) -> dict[str, float]:
    """The p50 of each kind in seconds, the median of interleaved rounds, and the ratio.

    Keys: the kinds, and `ratio` of `ttrpc` to the faster of the two gRPC ones.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="cg", dir="/tmp") as directory:
        for _ in range(rounds):
            for kind in KINDS:
                found[kind].append(_measure_one(kind, directory, count))
    result = {kind: statistics.median(values) for kind, values in found.items()}
    result["ratio"] = result["ttrpc"] / min(result["grpc"], result["bare-grpc"])
    return result


def rows() -> list[Row]:
    """One row: the ratio of ours to the library's."""
    found = measure()
    peer = min(found["grpc"], found["bare-grpc"])
    return [
        Row(
            name="ttRPC unary echo, 64 bytes, p50",
            bar=BAR,
            value=found["ratio"],
            unit="x",
            peer=f"grpc.aio {peer * 1e6:.0f} us; ours {found['ttrpc'] * 1e6:.0f} us",
        )
    ]


def main() -> None:
    """Be one of the two processes, or measure and print."""
    match sys.argv[1:]:
        case ["serve", kind, path]:
            asyncio.run(_serve(kind, path))
        case ["call", kind, path, count]:
            print(json.dumps(asyncio.run(_call(kind, path, int(count)))))
        case _:
            print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
