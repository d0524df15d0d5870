"""Counts and durations of a process, and the Unix socket that shows them.

Values are kept in plain tables; `prometheus_client` is imported by the first scrape that asks for
them. Labels are enums and status codes, never what a caller or tenant chose.

Source: docs/ARCHITECTURE.md, decision 16.
"""

import asyncio
import bisect
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from guest.errors import GuestError
from guest.protos.detail_pb2 import ErrorDetail
from guest.rpc.listener import UnixListener
from guest.rpc.status import Code

log = logging.getLogger(__name__)

DIRECTORY: Final = "/run/confidential-containers/metrics"

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of the buckets of a duration."""

MAX_REQUEST_BYTES: Final = 8192
REQUEST_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 16
"""Scrapes at a time; one more is closed unanswered."""


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[metrics]` table of a daemon's configuration.

    Attributes:
        directory: where `<command>.sock` appears; empty switches the metrics off.
    """

    directory: str = DIRECTORY


class Kind(Enum):
    """What a metric does with the values that it is given."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(msgspec.Struct, frozen=True):
    """One metric: `coco_<room>_<what>_<unit>`.

    Attributes:
        name: as scraped, without the suffix that a counter gets.
        help: one sentence.
        kind: counters add up, gauges keep the last value, histograms count into `SECONDS`.
        labels: names of the labels, whose values are enums.
    """

    name: str
    help: str
    kind: Kind = Kind.COUNTER
    labels: tuple[str, ...] = ()


class Histogram:
    """Counts per bucket, the last one being for everything longer, and the sum of all values."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(SECONDS, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Upper bound as text, and how many values are at most that."""
        bounds = (*SECONDS, math.inf)
        sums = [sum(self.counts[: i + 1]) for i in range(len(bounds))]
        texts = ["+Inf" if math.isinf(bound) else str(float(bound)) for bound in bounds]
        return [(text, float(count)) for text, count in zip(texts, sums, strict=True)]


class Metrics:
    """The values of one process."""

    def __init__(self) -> None:
        self._numbers: dict[Metric, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[Metric, dict[tuple[str, ...], Histogram]] = {}

    def record(self, metric: Metric, value: float = 1.0, *labels: str) -> None:
        """Count, set or observe; `labels` in the order of `metric.labels`."""
        assert len(labels) == len(metric.labels), metric.name
        if metric.kind is Kind.HISTOGRAM:
            series = self._histograms.setdefault(metric, {})
            series.setdefault(labels, Histogram()).add(value)
            return
        values = self._numbers.setdefault(metric, {})
        before = values.get(labels, 0.0) if metric.kind is Kind.COUNTER else 0.0
        values[labels] = before + value

    def value(self, metric: Metric, *labels: str) -> float:
        """What was counted or set last, or how many values a histogram took; 0 before any."""
        if metric.kind is Kind.HISTOGRAM:
            series = self._histograms.get(metric, {}).get(labels)
            return float(sum(series.counts)) if series else 0.0
        return self._numbers.get(metric, {}).get(labels, 0.0)

    def expose(self) -> bytes:
        """All of it in Prometheus's text format."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        metrics = self

        class Values:
            """What prometheus_client asks for its families."""

            def collect(self) -> Iterable[object]:
                """Each metric with its series."""
                for metric, values in metrics._numbers.items():
                    counter = metric.kind is Kind.COUNTER
                    make = CounterMetricFamily if counter else GaugeMetricFamily
                    family = make(metric.name, metric.help, labels=metric.labels)
                    for labels, value in values.items():
                        family.add_metric(labels, value)
                    yield family
                for metric, series in metrics._histograms.items():
                    shown = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                    for labels, one in series.items():
                        shown.add_metric(labels, one.cumulative(), one.total)
                    yield shown

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Values())  # type: ignore[arg-type]  # the base class has nothing to add
        ProcessCollector(registry=registry)
        return generate_latest(registry)


CALL_SECONDS: Final = Metric(
    "coco_rpc_call_seconds",
    "Duration of answered calls by room, method and exact status.",
    Kind.HISTOGRAM,
    ("room", "method", "code"),
)


class CallMetrics:
    """Counts the calls of one service; the observer of its servers."""

    def __init__(self, metrics: Metrics, room: str, methods: Iterable[str] = ()) -> None:
        """Count for `room`; with `methods`, a path that is not among them counts as `unknown`."""
        self._metrics = metrics
        self._room = room
        self._methods = frozenset(methods)

    def call_ended(
        self, method_path: str, code: Code, seconds: float, detail: ErrorDetail | None
    ) -> None:
        """Note one answered call, with the exact status where it is known."""
        exact = code
        if detail is not None and detail.status in Code.__members__.values():
            exact = Code(detail.status)
        known = not self._methods or method_path in self._methods
        method = method_path if known else "unknown"
        self._metrics.record(CALL_SECONDS, seconds, self._room, method, exact.name)


class MetricsServer:
    """`GET /metrics` and `GET /healthz` on a Unix socket; a component that never fails.

    A directory that cannot be made or written costs the metrics, not the service: that is logged.
    """

    name = "metrics"

    def __init__(
        self,
        metrics: Metrics,
        command: str,
        *,
        directory: str | Path = DIRECTORY,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """Serve `metrics` on `<directory>/<command>.sock`; an empty directory switches it off."""
        self._metrics = metrics
        self._path = Path(directory) / f"{command}.sock" if str(directory) else None
        self._is_healthy = is_healthy
        self._open = 0

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until `stop`; ready at once, whether or not the socket could be made."""
        listener = self._listen()
        ready()
        if listener is None:
            await stop.wait()
            return
        try:
            server = await asyncio.start_unix_server(
                self._answer, sock=listener.socket, limit=MAX_REQUEST_BYTES
            )
            listener.publish()
            await stop.wait()
            server.close()
        finally:
            listener.close()

    def _listen(self) -> UnixListener | None:
        if self._path is None:
            return None
        try:
            listener = UnixListener(str(self._path))
            listener.bind()
        except GuestError as error:
            extra = {"path": str(self._path), "error": str(error)}
            log.warning("metrics are not served", extra=extra)
            return None
        return listener

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("scrape broke off")
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError, asyncio.CancelledError):  # the scraper may be gone already
                await writer.wait_closed()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _http(b"405 Method Not Allowed", b"only GET\n", method)
        if path == b"/healthz":
            healthy = self._is_healthy()
            status = b"200 OK" if healthy else b"503 Service Unavailable"
            return _http(status, b"ok\n" if healthy else b"not ready\n", method)
        if path == b"/metrics":
            return _http(b"200 OK", self._metrics.expose(), method)
        return _http(b"404 Not Found", b"/metrics or /healthz\n", method)


def _http(status: bytes, body: bytes, method: bytes) -> bytes:
    head = (
        b"HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
    )
    return head + (b"" if method == b"HEAD" else body)
