"""Cumulative figures per model version, as Triton counts them: plain integers, read by metrics and ModelStatistics."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.core.records import BatchRecord, RpcRecord


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class BatchCounters:
    """Executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ModelCounters:
    """One model version since this gateway opened its lane."""

    inference_count: int = 0
    """Rows answered."""
    execution_count: int = 0
    """Batches run."""
    last_inference_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By Triton's reasons: REJECTED, CANCELED, BACKEND, OTHER."""
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    """Requests with an idempotency key that got an answer somebody had computed, or was computing."""
    cache_miss: Duration = field(default_factory=Duration)
    """Requests with a key that were computed."""
    batch_stats: dict[int, BatchCounters] = field(default_factory=lambda: defaultdict(BatchCounters))
    """By rows in the batch."""


class Counters:
    """All model versions of a gateway."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], ModelCounters] = defaultdict(ModelCounters)

    def of(self, model: str, version: str) -> ModelCounters:
        return self._models[model, version]

    def forget(self, model: str, version: str) -> None:
        self._models.pop((model, version), None)

    def __iter__(self) -> Iterator[tuple[tuple[str, str], ModelCounters]]:
        return iter(list(self._models.items()))

    def request(self, record: RpcRecord, reason: str) -> None:
        """Count one finished request; `reason` is empty for an answered one."""
        counters = self._models[record.model, record.version]
        took_ns = record.end_ns - record.start_ns
        if reason:
            counters.fail.add(took_ns)
            counters.failures[reason] += 1
            return
        counters.success.add(took_ns)
        counters.queue.add(record.closed_ns - record.queued_ns)
        counters.inference_count += record.rows
        counters.last_inference_ms = time.time_ns() // 1_000_000

    def looked_up(self, record: RpcRecord, *, hit: bool) -> None:
        """Count one answered request with an idempotency key, as Triton counts those of its response cache."""
        counters = self._models[record.model, record.version]
        (counters.cache_hit if hit else counters.cache_miss).add(record.end_ns - record.start_ns)

    def batch(self, record: BatchRecord, stages_ns: tuple[int, ...]) -> None:
        """Count one batch that came back. Compute time counts once for every request it has answered, as in Triton."""
        counters = self._models[record.model, record.version]
        counters.execution_count += 1
        size = counters.batch_stats[record.rows]
        _, unpack, h2d, forward, d2h, pack = stages_ns
        for whole, batch, ns in (
            (counters.compute_input, size.compute_input, unpack + h2d),
            (counters.compute_infer, size.compute_infer, forward),
            (counters.compute_output, size.compute_output, d2h + pack),
        ):
            whole.add(ns * record.succeeded, record.succeeded)
            batch.add(ns)
