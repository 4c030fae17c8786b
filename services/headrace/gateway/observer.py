"""Where the gateway's records go: tracer, metrics and request log. The servicer and the lanes speak to this alone.

On the hot path: a record is opened with a few ids, closed with a timestamp, and the last of a family to end hands
the whole family to the tracer.
"""

from __future__ import annotations

import logging
from collections import Counter

from headrace.core.clock import Clock
from headrace.core.records import FALLBACK, BatchRecord, RpcRecord
from headrace.core.tensors import ModelSpec
from headrace.errors import Cancelled, HeadraceError
from headrace.rpc.call import Call
from headrace.telemetry import context
from headrace.telemetry.context import Sampling
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.request_log import MAX_DETAIL, RequestLog
from headrace.telemetry.tracing import Tracer

log = logging.getLogger(__name__)


class Observer:
    """Opens and closes the record of every request, and takes the record of every batch."""

    def __init__(
        self, tracer: Tracer, metrics: GatewayMetrics, requests: RequestLog, clock: Clock, sampling: Sampling
    ) -> None:
        self.metrics = metrics
        self._tracer = tracer
        self._log = requests
        self._clock = clock
        self.sampling = sampling
        """Which of the traces that come next are recorded; may be replaced while it serves."""
        self.refused: Counter[str] = Counter()
        """Requests of those who may not ask, or not so much, by the name of the error."""

    def begin(self, method: str, rpc: Call) -> RpcRecord:
        """A record with its place in the caller's trace, or in one that starts here."""
        start_ns = self._clock.now_ns()
        parent, tracestate = context.read(rpc.invocation_metadata() or ())
        trace_id, span_id, parent_id, sampled = self.sampling.begin(parent)
        record = RpcRecord(
            trace_id, span_id, parent_id, sampled, start_ns, method, rpc.peer() if sampled else "", tracestate
        )
        record.caller = rpc.caller
        return record

    def succeeded(self, record: RpcRecord) -> None:
        self._close(record)
        if record.detour is not None and record.detour.reason:  # never silent
            self._log.note(record)

    def failed(self, record: RpcRecord, error: HeadraceError, code: str) -> None:
        """Close the record of a request that was refused or failed."""
        record.code, record.reason, record.detail = code, type(error).__name__, str(error)[:MAX_DETAIL]
        self._close(record)
        self._log.note(record)

    def turned_away(self, error: HeadraceError) -> None:
        """Count a request of one who may not ask: its record is dropped, and nothing else is kept."""
        self.refused[type(error).__name__] += 1

    def left(self, record: RpcRecord) -> None:
        """Close the record of a request whose caller went away."""
        record.code, record.reason = "CANCELLED", Cancelled.__name__
        self._close(record)
        self._log.note(record)

    def broke(self, record: RpcRecord, error: Exception) -> None:
        """Close the record of a request that met an error of ours."""
        record.code, record.reason = "INTERNAL", type(error).__name__
        where = {"fields": {"trace_id": record.trace_id.hex()}}
        log.error("a request failed on an error of ours", exc_info=error, extra=where)
        self._close(record)
        self._log.note(record)

    def aside(self, record: RpcRecord, spec: ModelSpec) -> RpcRecord:
        """A record of what `spec`'s version is asked in place of another one: its spans stand under that request's."""
        return RpcRecord(
            record.trace_id,
            record.span_id,
            0,
            record.sampled,
            self._clock.now_ns(),
            tracestate=record.tracestate,
            model=spec.name,
            version=spec.version,
            path=FALLBACK,
        )

    def aside_over(self, aside: RpcRecord, error: HeadraceError | None) -> None:
        """Close such a record; `error` is what it ended with. One that got no place says nothing."""
        aside.end_ns = self._clock.now_ns()
        if not aside.queued_ns:
            return
        aside.reason = "" if error is None else type(error).__name__
        self.metrics.observe_aside(aside)
        if aside.batch is None:
            self._tracer.single(aside)
        else:
            self._ended(aside.batch)

    def batch(self, record: BatchRecord) -> None:
        """Take a batch that is over."""
        self.metrics.observe_batch(record)
        self._ended(record)

    def _close(self, record: RpcRecord) -> None:
        record.end_ns = self._clock.now_ns()
        self.metrics.observe_rpc(record)
        if record.batch is None:
            self._tracer.single(record)
        else:
            self._ended(record.batch)

    def _ended(self, family: BatchRecord) -> None:
        family.unfinished -= 1
        if not family.unfinished:
            self._tracer.family(family)
