"""What a caller gets back beside its answer, in the trailing metadata: its place in the trace, and our own timings."""

from __future__ import annotations

from headrace.core.records import RpcRecord
from headrace.telemetry import context


def trailing(record: RpcRecord) -> tuple[tuple[str, str], ...]:
    """`traceparent` (our span: where a caller's logs point to), `tracestate` if one came, and `server-timing`.

    Milliseconds, as far as the request got. Source: https://www.w3.org/TR/server-timing/.
    """
    parent = context.header(record.trace_id, record.span_id, sampled=record.sampled)
    found = (("traceparent", parent), ("server-timing", _timing(record)))
    return (*found, ("tracestate", record.tracestate)) if record.tracestate else found


def _timing(record: RpcRecord) -> str:
    if not record.closed_ns:
        queued = record.queued_ns and (record.settled_ns - record.queued_ns) / 1e6
        return f"queue;dur={queued:.3f}"
    waits = f"queue;dur={(record.closed_ns - record.queued_ns) / 1e6:.3f}"
    waits += f", execute;dur={(record.settled_ns - record.closed_ns) / 1e6:.3f}"
    answered = record.batch and record.batch.answered
    if not answered or answered.stages is None:
        return waits
    return f"{waits}, forward;dur={(answered.stages.computed_ns - answered.stages.copied_ns) / 1e6:.3f}"
