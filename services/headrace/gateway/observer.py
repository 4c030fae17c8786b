"""Where the gateway's records go: the tracer and the metrics. The servicer and the lanes speak to this alone.

On the hot path: a record is opened with a few ids, closed with a timestamp and appended to a ring.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from grpc import aio

from headrace.core.clock import Clock
from headrace.core.records import BatchRecord, RpcRecord
from headrace.errors import Cancelled, Failed, HeadraceError
from headrace.telemetry import context
from headrace.telemetry.counters import Counters
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.tracing import Tracer
from headrace.v1 import replica_pb2

log = logging.getLogger(__name__)


class Observer:
    """Opens and closes the record of every request, and takes the record of every batch."""

    def __init__(self, tracer: Tracer, metrics: GatewayMetrics, clock: Clock, sampling: float) -> None:
        self._tracer = tracer
        self._metrics = metrics
        self._clock = clock
        self._sampling = sampling

    @property
    def counters(self) -> Counters:
        return self._metrics.counters

    def begin(self, method: str, rpc: aio.ServicerContext[Any, Any]) -> RpcRecord:
        """A record with its place in the caller's trace, or in one that starts here."""
        traceparent = next((str(v) for key, v in rpc.invocation_metadata() or () if key == "traceparent"), "")
        parent = context.parse(traceparent) if traceparent else None
        trace_id, span_id, parent_id, sampled = context.begin(parent, self._sampling)
        return RpcRecord(
            trace_id=trace_id,
            span_id=span_id,
            parent_id=parent_id,
            sampled=sampled,
            start_ns=self._clock.now_ns(),
            method=method,
        )

    def succeeded(self, record: RpcRecord) -> None:
        self._close(record)

    def failed(self, record: RpcRecord, error: HeadraceError, code: str) -> None:
        """Close the record of a request that was refused or failed, and say so in the log, without its payload."""
        record.code, record.reason = code, type(error).__name__
        self._close(record)
        level = logging.WARNING if isinstance(error, Failed) else logging.DEBUG
        log.log(level, "%s: %s", record.reason, error, extra={"trace_id": record.trace_id.hex()})

    def broke_off(self, record: RpcRecord, error: BaseException) -> None:
        """Close the record of a request whose caller went away, or that met an error of ours."""
        gone = isinstance(error, asyncio.CancelledError)
        record.code, record.reason = ("CANCELLED", Cancelled.__name__) if gone else ("INTERNAL", type(error).__name__)
        if not gone:
            log.error("a request failed on an error of ours", exc_info=error, extra={"trace_id": record.trace_id.hex()})
        self._close(record)

    def batch(self, record: BatchRecord, stamps: replica_pb2.Stamps | None) -> None:
        self._metrics.observe_batch(record, _stages_ns(stamps))
        if record.sampled:
            self._tracer.batch(record)
        else:
            record.members = []  # they point at it: the circle would wait for the garbage collector

    def _close(self, record: RpcRecord) -> None:
        record.end_ns = self._clock.now_ns()
        self._metrics.observe_rpc(record)
        if record.sampled:
            self._tracer.rpc(record)


def _stages_ns(stamps: replica_pb2.Stamps | None) -> dict[str, int]:
    """Nanoseconds a batch spent in each stage of the replica; empty when no answer came."""
    if stamps is None:
        return {}
    return {
        "wait": stamps.started_ns - stamps.received_ns,
        "unpack": stamps.unpacked_ns - stamps.started_ns,
        "copy": stamps.forward_ns - stamps.unpacked_ns,
        "forward": stamps.computed_ns - stamps.forward_ns,
        "pack": stamps.packed_ns - stamps.computed_ns,
    }
