"""A batch that is over: its answer cut by row, or an error for each of its riders. Every one of them is settled here.

Called by lanes and comparisons. What a rider was told before, by its deadline or its caller's leaving, stays.
"""

from __future__ import annotations

from typing import Final

from headrace.core.batch import Batch, split
from headrace.core.inference import Answer
from headrace.errors import BrokenContract, DeadlinePassed, HeadraceError, ModelFailed
from headrace.v1 import replica_pb2

EXPIRED: Final = replica_pb2.ROW_STATUS_EXPIRED
ROW_ERRORS: Final[dict[int, tuple[type[HeadraceError], str]]] = {
    EXPIRED: (DeadlinePassed, "Request timeout expired"),
    replica_pb2.ROW_STATUS_NOT_FINITE: (BrokenContract, "the model's answer is not a finite number"),
    replica_pb2.ROW_STATUS_FAILED: (ModelFailed, "the model failed on this request"),
}
STATUSES: Final = bytes(replica_pb2.RowStatus.values())


def settle(batch: Batch, answer: replica_pb2.PackedAnswer, now: float) -> None:
    """Hand every rider its rows. Raises: BrokenContract when the answer is not the size its spec promises."""
    check_size(batch, answer)
    record = batch.record
    first = batch.riders[0]
    batch.riders[-1].ends = first.expected_s, first.queued_at, now
    record.rows, record.tokens = batch.rows, batch.tokens
    columns, status = list(answer.columns), answer.status
    row = 0
    for rider in batch.riders:
        rows = rider.inference.rows
        worst = max(status[row : row + rows])
        if worst != EXPIRED:
            rider.record.row = row
        if rider.outcome is not None:
            if worst != EXPIRED:
                rider.record.masked = type(rider.outcome).__name__
        elif worst:
            error, sentence = ROW_ERRORS[worst]
            rider.settle(error(sentence))
        else:
            queue_us = (rider.record.closed_ns - rider.record.queued_ns) // 1000
            parts, path = split(batch.spec, columns, row, rows), rider.record.path
            rider.settle(Answer(parts, record.span_id, batch.rows, queue_us, path))
            record.succeeded += 1
        row += rows


def check_size(batch: Batch, answer: replica_pb2.PackedAnswer) -> None:
    """Raises: BrokenContract when the answer is not the size its spec promises, or has a status that is none."""
    tensors = batch.spec.answers if batch.wants_extras else batch.spec.outputs
    expected = [tensor.entry_bytes * batch.rows for tensor in tensors]
    status = answer.status
    wrong = len(status) != batch.rows or status.strip(STATUSES)
    if wrong or [len(column) for column in answer.columns] != expected:
        raise BrokenContract("the replica's answer does not have the shape its spec promises")


def fail(batch: Batch, error: type[HeadraceError], sentence: str) -> None:
    """Each rider gets an exception of its own: one object raised in many callers would collect their frames."""
    for rider in batch.riders:
        rider.settle(error(sentence))
