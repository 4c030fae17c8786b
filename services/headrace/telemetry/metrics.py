"""Prometheus metrics of a gateway: Triton's names for what Triton counts, `headrace_*` for the rest.

`observe_*` run on the event loop, once a request and once a batch; children are looked up once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from headrace import errors
from headrace.core.records import BatchRecord, RpcRecord
from headrace.telemetry.counters import Counters, Duration, ModelCounters

SECONDS: Final = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015,
    0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0,
)  # fmt: skip
"""Buckets around a budget of 100 ms."""
ROWS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
TOKENS: Final = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
LANE: Final = ("model", "version")


class GatewayMetrics:
    """Everything a gateway measures, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counters = Counters()
        registry.register(TritonCollector(self.counters))

        def histogram(name: str, about: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, labels, registry=registry, buckets=buckets)

        request = histogram("headrace_request_duration_seconds", "Request, door to answer.", (*LANE, "code"), SECONDS)
        queue = histogram("headrace_queue_duration_seconds", "Request, waiting for its batch.", LANE, SECONDS)
        dispatch = histogram("headrace_dispatch_duration_seconds", "Batch, sent to answered.", LANE, SECONDS)
        stage = histogram("headrace_replica_stage_duration_seconds", "Batch, by stage.", (*LANE, "stage"), SECONDS)
        rows = histogram("headrace_batch_rows", "Rows in a batch.", LANE, ROWS)
        tokens = histogram("headrace_batch_tokens", "Events in a batch.", LANE, TOKENS)
        self._request = lru_cache(maxsize=1024)(request.labels)
        self._queue = lru_cache(maxsize=256)(queue.labels)
        self._dispatch = lru_cache(maxsize=256)(dispatch.labels)
        self._stage = lru_cache(maxsize=1024)(stage.labels)
        self._rows = lru_cache(maxsize=256)(rows.labels)
        self._tokens = lru_cache(maxsize=256)(tokens.labels)

    def expose(self, registry: CollectorRegistry, read: Callable[[], Iterable[Metric]]) -> None:
        """Add figures that are read when somebody scrapes: queue lengths, retries, spans."""
        registry.register(Scraped(read))

    def observe_rpc(self, record: RpcRecord) -> None:
        model, version = record.model, record.version
        self.counters.request(record, reason_of(record))
        self._request(model, version, record.code).observe((record.end_ns - record.start_ns) / 1e9)
        if record.closed_ns:
            self._queue(model, version).observe((record.closed_ns - record.queued_ns) / 1e9)

    def observe_batch(self, record: BatchRecord, stages_ns: Mapping[str, int]) -> None:
        """`stages_ns`: nanoseconds per stage of the replica; empty when no answer came."""
        model, version = record.model, record.version
        self._rows(model, version).observe(record.rows)
        self._tokens(model, version).observe(record.tokens)
        for dispatch in record.dispatches:
            self._dispatch(model, version).observe((dispatch.end_ns - dispatch.start_ns) / 1e9)
        if stages_ns:
            self.counters.batch(record, stages_ns)
            for stage, ns in stages_ns.items():
                self._stage(model, version, stage).observe(ns / 1e9)


@lru_cache(maxsize=64)
def _reason(name: str) -> str:
    kind: Any = getattr(errors, name, errors.HeadraceError)
    return str(kind.reason)


def reason_of(record: RpcRecord) -> str:
    """Triton's word for why a request failed; empty when it was answered."""
    return _reason(record.reason) if record.reason else ""


class Scraped(Collector):
    """Metrics whose values are read at scrape time."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        return ()


class TritonCollector(Collector):
    """`nv_inference_*`, as unknown-typed families: a prometheus counter would append `_total` to the name."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        counts: dict[str, Callable[[ModelCounters], int]] = {
            "nv_inference_request_success": lambda c: c.success.count,
            "nv_inference_count": lambda c: c.inference_count,
            "nv_inference_exec_count": lambda c: c.execution_count,
        }
        durations: dict[str, Callable[[ModelCounters], Duration]] = {
            "nv_inference_request_duration_us": lambda c: c.success,
            "nv_inference_queue_duration_us": lambda c: c.queue,
            "nv_inference_compute_input_duration_us": lambda c: c.compute_input,
            "nv_inference_compute_infer_duration_us": lambda c: c.compute_infer,
            "nv_inference_compute_output_duration_us": lambda c: c.compute_output,
        }
        for name, count in counts.items():
            yield self._family(name, count)
        for name, duration in durations.items():
            yield self._family(name, lambda c, d=duration: d(c).ns // 1000)  # type: ignore[misc]
        failures = UnknownMetricFamily("nv_inference_request_failure", "Failed requests.", labels=[*LANE, "reason"])
        for lane, counters in self._counters:
            for reason, value in counters.failures.items():
                failures.add_metric([*lane, reason], value)
        yield failures

    def _family(self, name: str, value: Callable[[ModelCounters], int]) -> Metric:
        family = UnknownMetricFamily(name, "As in Triton.", labels=LANE)
        for lane, counters in self._counters:
            family.add_metric(list(lane), value(counters))
        return family


def counter(name: str, about: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    """A counter family from values that somebody else keeps."""
    family = CounterMetricFamily(name, about, labels=labels)
    for label_values, value in values.items():
        family.add_metric(list(label_values), value)
    return family


class MetricsServer:
    """The HTTP port that Prometheus scrapes, on a thread."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._server: WSGIServer
        self._server, self._thread = start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
