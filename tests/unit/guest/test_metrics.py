"""Values, their exposition, and the socket that shows them."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guest.metrics import CALL_SECONDS, CallMetrics, Kind, Metric, Metrics, MetricsServer
from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.status import Code

PULLS = Metric("coco_image_pulls", "Pulls.", Kind.COUNTER, ("outcome",))
OPEN = Metric("coco_image_open_layers", "Layers.", Kind.GAUGE)


def test_counters_add_and_gauges_keep_the_last() -> None:
    metrics = Metrics()
    for value in (1, 2):
        metrics.record(PULLS, value, "ok")
        metrics.record(OPEN, value)
    assert (metrics.value(PULLS, "ok"), metrics.value(PULLS, "failed")) == (3, 0)
    assert metrics.value(OPEN) == 2


def test_a_call_counts_with_its_exact_status() -> None:
    metrics = Metrics()
    observer = CallMetrics(metrics, "aa")
    observer.call_ended("/s/m", Code.OK, 0.001, None)
    observer.call_ended("/s/m", Code.INTERNAL, 2, ErrorDetail(status=Code.PERMISSION_DENIED))
    assert metrics.value(CALL_SECONDS, "aa", "/s/m", "OK") == 1
    assert metrics.value(CALL_SECONDS, "aa", "/s/m", "PERMISSION_DENIED") == 1


def test_the_text_has_every_series_with_its_labels() -> None:
    metrics = Metrics()
    metrics.record(PULLS, 1, 'a"b\n')
    metrics.record(OPEN, 4)
    metrics.record(CALL_SECONDS, 0.001, "aa", "/s/m", "OK")
    metrics.record(CALL_SECONDS, 100.0, "aa", "/s/m", "OK")
    text = metrics.expose().decode()
    assert 'coco_image_pulls_total{outcome="a\\"b\\n"} 1.0' in text
    assert "coco_image_open_layers 4.0" in text
    label = 'code="OK",le="{}",method="/s/m",room="aa"'
    buckets = [line for line in text.splitlines() if "seconds_bucket" in line]
    assert len(buckets) == 16
    assert all(line.split()[-1] == "1.0" for line in buckets[:-1])
    assert sorted(buckets[-1].partition("{")[2].partition("}")[0].split(",")) == sorted(
        label.format("+Inf").split(",")
    )
    assert 'coco_rpc_call_seconds_count{code="OK",method="/s/m",room="aa"} 2.0' in text
    assert "process_resident_memory_bytes" in text


@asynccontextmanager
async def served(server: MetricsServer) -> AsyncIterator[None]:
    stop, ready = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run(ready=ready.set, stop=stop))
        await ready.wait()
        yield
        stop.set()


async def get(path: Path, request: bytes) -> bytes:
    while not path.exists():
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_and_health_are_served_on_a_private_socket(short_tmp: Path) -> None:
    metrics = Metrics()
    metrics.record(OPEN, 7)
    healthy = [True]
    server = MetricsServer(
        metrics, "probe", directory=short_tmp / "m", is_healthy=lambda: healthy[0]
    )
    path = short_tmp / "m" / "probe.sock"
    async with served(server):
        answer = await get(path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"coco_image_open_layers 7.0" in answer
        assert (await get(path, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        assert (await get(path, b"HEAD /healthz HTTP/1.1\r\n\r\n")).endswith(b"close\r\n\r\n")
        healthy[0] = False
        assert b" 503 " in await get(path, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert b" 404 " in await get(path, b"GET / HTTP/1.1\r\n\r\n")
        assert b" 405 " in await get(path, b"POST /metrics HTTP/1.1\r\n\r\n")
        assert await get(path, b"x" * 20_000) == b""
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o007 == 0
    assert list((short_tmp / "m").iterdir()) == []


async def test_a_directory_that_cannot_be_made_costs_the_metrics_only(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (short_tmp / "file").write_text("")
    async with served(MetricsServer(Metrics(), "probe", directory=short_tmp / "file" / "m")):
        pass
    assert [record.message for record in caplog.records] == ["metrics are not served"]


async def test_an_empty_directory_switches_the_metrics_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(MetricsServer(Metrics(), "probe", directory="")):
        pass
    assert caplog.records == []
