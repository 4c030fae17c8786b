"""Copies: requests that were answered, on their way to be answered again. Nobody waits for one.

Made by a shadow lane as they leave. What becomes of them, and when, is the lane's business; no clock in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from headrace.core.adapting import adapted
from headrace.core.batch import Batch, split
from headrace.core.inference import Answer, Inference
from headrace.core.records import BatchRecord, RpcRecord
from headrace.core.rider import Rider
from headrace.core.tensors import ModelSpec
from headrace.errors import HeadraceError
from headrace.gateway.settling import ROW_ERRORS, check_size
from headrace.telemetry import context
from headrace.v1 import replica_pb2


class Original(NamedTuple):
    """What was answered: as little as a payment can leave behind."""

    inference: Inference
    record: RpcRecord
    outcome: Answer | HeadraceError
    """What its caller got."""
    at: float
    """When, on the gateway's clock, seconds."""
    depth: int
    """Rows that were held then."""


@dataclass(slots=True)
class Copy:
    """A request that is answered, on its way to be answered again."""

    original: Original
    rider: Rider


def copy_of(original: Original, spec: ModelSpec, timeout_s: float) -> Copy | None:
    """What the version of `spec` is asked. None: it wants what the request does not have."""
    copied = adapted(original.inference, spec, original.at + timeout_s)
    return Copy(original, Rider(copied, _record(original, copied), _nobody_waits)) if copied is not None else None


def batch_of(copies: list[Copy], spec: ModelSpec, closed_ns: int) -> BatchRecord:
    """The record of a batch that leaves now, entered in those of its copies."""
    record = BatchRecord(
        trace_id=context.new_trace_id(),
        span_id=context.new_id(),
        model=spec.name,
        version=spec.version,
        path="shadow",
        closed_ns=closed_ns,
        close_reason="slot",
        oldest_ns=copies[0].rider.record.queued_ns,
        rows=sum(copy.rider.inference.rows for copy in copies),
        tokens=sum(copy.rider.inference.tokens for copy in copies),
        members=[copy.rider.record for copy in copies],
        unfinished=1,
    )
    for copy in copies:
        copy.rider.record.closed_ns, copy.rider.record.batch = closed_ns, record
    return record


def settle(batch: Batch, answer: replica_pb2.PackedAnswer) -> None:
    """Hand every copy its rows. Raises: BrokenContract when the answer is not the size its spec promises."""
    check_size(batch, answer)
    columns, row = list(answer.columns), 0
    for rider in batch.riders:
        rows = rider.inference.rows
        worst = max(answer.status[row : row + rows])
        rider.record.row = row
        if worst:
            error, sentence = ROW_ERRORS[worst]
            rider.settle(error(sentence))
        else:
            rider.settle(Answer(split(batch.spec, columns, row, rows), batch.record.span_id, batch.rows, 0))
        row += rows


def fail(copies: list[Copy], error: HeadraceError) -> None:
    """The same end for all that have none yet."""
    for copy in copies:
        copy.rider.settle(error)


def round_trip_s(record: BatchRecord, stamps: replica_pb2.Stamps) -> float:
    """How long the last try took, less what it waited behind others at the replica."""
    dispatch = record.dispatches[-1]
    return (dispatch.end_ns - dispatch.start_ns - max(0, stamps.started_ns - stamps.received_ns)) / 1e9


def _record(original: Original, copied: Inference) -> RpcRecord:
    """Its spans stand under those of the request it was taken from, and may end after them."""
    record, at_ns = original.record, int(original.at * 1e9)
    return RpcRecord(
        record.trace_id,
        record.span_id,
        0,
        record.sampled,
        at_ns,
        tracestate=record.tracestate,
        model=copied.spec.name,
        version=copied.spec.version,
        path="shadow",
        rows=copied.rows,
        tokens=copied.tokens,
        queued_ns=at_ns,
        queue_depth=original.depth,
    )


def _nobody_waits() -> None:
    """A copy has no caller to wake."""
