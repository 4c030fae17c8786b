"""Prometheus metrics of a gateway: Triton's names for what Triton counts, `headrace_*` for the rest.

`observe_*` run on the event loop, once a request and once a batch. A lane's children are looked up once and kept,
and go when the lane goes: no label is ever a caller's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from headrace import errors
from headrace.core.records import FALLBACK, BatchRecord, Detour, RpcRecord, Stages
from headrace.telemetry.counters import Counters, Duration, ModelCounters
from headrace.telemetry.histogram import HistogramFamily, Series

SECONDS: Final = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015,
    0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0,
)  # fmt: skip
"""Buckets around a budget of 100 ms."""
SLACK: Final = (-1.0, -0.1, -0.01, -0.001, 0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
ROWS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
TOKENS: Final = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
RATIO: Final = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
MODEL: Final = ("model", "version")
LANE: Final = (*MODEL, "path")
STAGES: Final = ("wait", "unpack", "h2d", "forward", "d2h", "pack")
SHED: Final = frozenset({"Overloaded", "DeadlinePassed", "NotServing", "NotReady"})
"""Refusals that another moment, or another replica, would have spared the caller."""
SHADOW: Final = "shadow"
"""The path of what nobody waits for: Triton's figures are of what callers asked."""


class GatewayMetrics:
    """Everything a gateway measures, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, that nobody charts
        self.counters = Counters()
        self._registry = registry
        registry.register(TritonCollector(self.counters))
        self._families: list[HistogramFamily | Counter] = []

        def histogram(name: str, about: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> HistogramFamily:
            made = HistogramFamily(name, about, labels, bounds)
            registry.register(made)
            self._families.append(made)
            return made

        def count(name: str, about: str, labels: tuple[str, ...]) -> Counter:
            made = Counter(name, about, labels, registry=registry)
            self._families.append(made)
            return made

        self.request = histogram(
            "headrace_request_duration_seconds", "Request, door to answer.", (*LANE, "code"), SECONDS
        )
        self.queue = histogram("headrace_queue_duration_seconds", "Request, waiting for its batch.", LANE, SECONDS)
        self.slack = histogram("headrace_deadline_slack_seconds", "Request, deadline minus its end.", LANE, SLACK)
        self.dispatch = histogram("headrace_dispatch_duration_seconds", "Batch, sent to answered.", LANE, SECONDS)
        self.stage = histogram("headrace_replica_stage_duration_seconds", "Batch, by stage.", (*LANE, "stage"), SECONDS)
        self.rows = histogram("headrace_batch_rows", "Rows in a batch.", LANE, ROWS)
        self.tokens = histogram("headrace_batch_tokens", "Events in a batch.", LANE, TOKENS)
        self.padding = histogram("headrace_batch_padding_ratio", "Events computed for each event asked.", LANE, RATIO)
        self.shed = count("headrace_shed", "Requests refused for load or time.", (*MODEL, "reason"))
        self.masked = count("headrace_masked_rows", "Rows computed for callers that had gone.", (*MODEL, "reason"))
        self.fallback = count(
            "headrace_fallback", "Requests that somebody else has answered.", (*MODEL, "reason", "by")
        )
        self.idempotency = count("headrace_idempotency", "Requests with an idempotency key.", (*MODEL, "result"))
        self.loop_lag = Histogram(
            "headrace_event_loop_lag_seconds", "How late the event loop wakes up.", registry=registry, buckets=SECONDS
        )
        self._lanes: dict[tuple[str, str, str], LaneMetrics] = {}

    def expose(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Add figures that are read when somebody scrapes: queue lengths, retries, spans."""
        self._registry.register(Scraped(read))

    def observe_rpc(self, record: RpcRecord) -> None:
        reason, end_ns, span_id, path = record.reason, record.end_ns, record.span_id, record.path
        failure = errors.named(reason).reason if reason else ""
        if record.detour is not None:
            path, failure = self._observe_detour(record, record.detour, failure)
        lane = self._lane(record.model, record.version, path)
        self.counters.request(record, failure)
        # One exemplar a batch, its oldest rider, and one for each that failed: more would displace each other.
        chosen = record.sampled and (not record.row or (reason and reason not in SHED))
        trace_id = record.trace_id if chosen else b""
        lane.request(record.code).observe((end_ns - record.start_ns) / 1e9, trace_id, span_id)
        if record.closed_ns:
            lane.queue.observe((record.closed_ns - record.queued_ns) / 1e9, trace_id, span_id)
        if record.deadline_ns:
            lane.slack.observe((record.deadline_ns - end_ns) / 1e9, trace_id, span_id)
        if reason in SHED:
            self.shed.labels(record.model, record.version, reason).inc()

    def _observe_detour(self, record: RpcRecord, detour: Detour, failure: str) -> tuple[str, str]:
        """Count it; the path and the failure that the request counts under: that of the version that did not answer."""
        lane = record.model, record.version
        if detour.idempotency:
            failed = record.reason and detour.idempotency != "conflict"
            self.idempotency.labels(*lane, "failed" if failed else detour.idempotency).inc()
        if detour.reason and not record.reason:
            self.fallback.labels(*lane, detour.reason, detour.by).inc()
            return FALLBACK, errors.named(detour.error).reason
        if detour.idempotency and not record.reason:
            self.counters.looked_up(record, hit=detour.original is not None)
        return record.path, failure

    def observe_aside(self, record: RpcRecord) -> None:
        """What was asked in place of another version: an inference of this one, and no request of a caller."""
        self.counters.request(record, errors.named(record.reason).reason if record.reason else "")
        if record.closed_ns:
            queue = self._lane(record.model, record.version, record.path).queue
            queue.observe((record.closed_ns - record.queued_ns) / 1e9)

    def observe_batch(self, record: BatchRecord) -> None:
        lane = self._lane(record.model, record.version, record.path)
        lane.rows.observe(record.rows)
        lane.tokens.observe(record.tokens)
        trace_id = record.trace_id if record.sampled else b""
        for dispatch in record.dispatches:
            lane.dispatch.observe((dispatch.end_ns - dispatch.start_ns) / 1e9, trace_id, dispatch.span_id)
        answered = record.answered
        if answered is None or answered.stages is None:
            return
        lane.padding.observe(answered.padded_tokens / record.tokens if record.tokens else 1.0)
        took_ns = durations_ns(answered.stages)
        if record.path != SHADOW:
            self.counters.batch(record, took_ns)
        for stage, ns in zip(lane.stages, took_ns, strict=True):
            stage.observe(ns / 1e9)
        for member in record.members:
            if member.masked and record.path != SHADOW:
                self.masked.labels(record.model, record.version, member.masked).inc(member.rows)

    def forget(self, model: str, version: str) -> None:
        """A lane was closed: its series end."""
        for lane in [lane for lane in self._lanes if lane[:2] == (model, version)]:
            del self._lanes[lane]
        self.counters.forget(model, version)
        for family in self._families:
            family.remove_by_labels({"model": model, "version": version})

    def _lane(self, model: str, version: str, path: str) -> LaneMetrics:
        lane = self._lanes.get((model, version, path))
        if lane is None:
            lane = self._lanes[model, version, path] = LaneMetrics(self, model, version, path)
        return lane


class LaneMetrics:
    """The children of one model version in one capacity."""

    def __init__(self, metrics: GatewayMetrics, model: str, version: str, path: str) -> None:
        lane = model, version, path
        self._request = metrics.request
        self._labels = lane
        self._by_code: dict[str, Series] = {}
        self.queue = metrics.queue.labels(*lane)
        self.slack = metrics.slack.labels(*lane)
        self.dispatch = metrics.dispatch.labels(*lane)
        self.rows = metrics.rows.labels(*lane)
        self.tokens = metrics.tokens.labels(*lane)
        self.padding = metrics.padding.labels(*lane)
        self.stages = [metrics.stage.labels(*lane, stage) for stage in STAGES]

    def request(self, code: str) -> Series:
        child = self._by_code.get(code)
        if child is None:
            child = self._by_code[code] = self._request.labels(*self._labels, code)
        return child


def durations_ns(stages: Stages) -> tuple[int, ...]:
    """How long a batch spent in each of `STAGES`."""
    return tuple([end - begin if end > begin else 0 for begin, end in pairwise(stages)])


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
        failures = UnknownMetricFamily("nv_inference_request_failure", "Failed requests.", labels=[*MODEL, "reason"])
        for lane, counters in self._counters:
            for reason, value in list(counters.failures.items()):
                failures.add_metric([*lane, reason], value)
        yield failures

    def _family(self, name: str, value: Callable[[ModelCounters], int]) -> Metric:
        family = UnknownMetricFamily(name, "As in Triton.", labels=MODEL)
        for lane, counters in self._counters:
            family.add_metric(list(lane), value(counters))
        return family


Values = Mapping[tuple[str, ...], float]


def counter(name: str, about: str, labels: tuple[str, ...], values: Values) -> Metric:
    """A counter family from values that somebody else keeps."""
    return _filled(CounterMetricFamily(name, about, labels=labels), values)


def gauge(name: str, about: str, labels: tuple[str, ...], values: Values) -> Metric:
    """A gauge family from values that somebody else keeps."""
    return _filled(GaugeMetricFamily(name, about, labels=labels), values)


def _filled(family: Any, values: Values) -> Metric:
    for label_values, value in values.items():
        family.add_metric(list(label_values), value)
    return family  # type: ignore[no-any-return]
