"""Pairs on their way to control: two sides of one request become a row of columns, and what is no pair is counted.

Filled by shadow lanes, emptied by `telling`. One `Notes` a comparison.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import nan
from typing import Final, Self

import numpy as np

from headrace.core.inference import UNKNOWN, Answer, Inference
from headrace.core.records import RpcRecord
from headrace.core.routing import entity_hash
from headrace.core.tensors import ModelSpec
from headrace.errors import BackendLost, BrokenContract, DeadlinePassed, HeadraceError, ModelFailed, Overloaded
from headrace.v1 import experiments_pb2

MAX_US: Final = 2**32 - 1
PROBABILITY: Final = "p"
"""The output that calibration is measured on, where another one is compared."""
ERRORS: Final[dict[type[HeadraceError], experiments_pb2.PairError]] = {
    ModelFailed: experiments_pb2.PAIR_ERROR_FAILED,
    DeadlinePassed: experiments_pb2.PAIR_ERROR_TIMEOUT,
    BackendLost: experiments_pb2.PAIR_ERROR_LOST,
    BrokenContract: experiments_pb2.PAIR_ERROR_GARBAGE,
}
"""What a version may be blamed for. Everything else is its caller's or the gateway's own doing."""


@dataclass(slots=True)
class Side:
    """How one version did on one request."""

    values: list[float]
    """One a row; NaN where there is none."""
    probabilities: list[float]
    """Likewise; empty where the model has none, or it is what is compared."""
    error: experiments_pb2.PairError
    took_us: int
    version: str

    @classmethod
    def answered(
        cls, outcome: Answer | HeadraceError, spec: ModelSpec, output: str, record: RpcRecord, now_ns: int
    ) -> Self | None:
        """What the caller got; None where the version had nothing to do with that."""
        if isinstance(outcome, Answer):
            return cls._value(outcome, spec, output, record, now_ns)
        error = ERRORS.get(type(outcome))
        if error is None or not record.queued_ns:  # refused, perhaps at the door
            return None
        return cls([nan] * record.rows, [], error, _took_us(record, now_ns), spec.version)

    @classmethod
    def asked(
        cls, outcome: Answer | HeadraceError, spec: ModelSpec, output: str, record: RpcRecord, now_ns: int
    ) -> Self:
        """What came of a copy. A refusal is a failure here: of a value that the other version took, of a full queue."""
        if isinstance(outcome, Answer):
            return cls._value(outcome, spec, output, record, now_ns)
        lost = isinstance(outcome, Overloaded)
        blamed = experiments_pb2.PAIR_ERROR_LOST if lost else experiments_pb2.PAIR_ERROR_FAILED
        error = ERRORS.get(type(outcome), blamed)
        return cls([nan] * record.rows, [], error, _took_us(record, now_ns), spec.version)

    @classmethod
    def _value(cls, answer: Answer, spec: ModelSpec, output: str, record: RpcRecord, now_ns: int) -> Self:
        values = _numbers(answer, spec, output)
        error = experiments_pb2.PAIR_ERROR_UNSPECIFIED if values else experiments_pb2.PAIR_ERROR_GARBAGE
        probabilities = [] if output == PROBABILITY else _numbers(answer, spec, PROBABILITY)
        return cls(values or [nan] * record.rows, probabilities, error, _took_us(record, now_ns), spec.version)


def _took_us(record: RpcRecord, now_ns: int) -> int:
    return min(max(0, now_ns - record.queued_ns) // 1000, MAX_US)


def _numbers(answer: Answer, spec: ModelSpec, name: str) -> list[float]:
    """One number a row of this output; none where the model has no such output, or it is no number."""
    position = spec.output_index.get(name)
    if position is None or spec.answers[position].dims not in ((), (1,)):
        return []
    numbers = np.frombuffer(answer.columns[position], spec.answers[position].dtype).astype(np.float64)
    return list(numbers.tolist())


class Notes:
    """What one comparison has noted since it was emptied the last time."""

    def __init__(self, experiment_id: str, incumbent: str) -> None:
        self.experiment_id = experiment_id
        self.columns = experiments_pb2.PairColumns()
        self.counts = experiments_pb2.SampleCounts()
        self._incumbent = incumbent
        self._last_batch = {True: 0, False: 0}

    @property
    def rows(self) -> int:
        return len(self.columns.at_us)

    @property
    def empty(self) -> bool:
        return not (self.rows or self.counts.sampled or self.counts.drops or self.columns.batches)

    def take(self) -> tuple[experiments_pb2.PairColumns, experiments_pb2.SampleCounts]:
        """Everything noted; the notes are empty then."""
        taken = self.columns, self.counts
        self.columns, self.counts = experiments_pb2.PairColumns(), experiments_pb2.SampleCounts()
        return taken

    def make_room(self, most: int) -> int:
        """Forget the oldest pairs beyond `most`, a few at a time; they count as dropped. How many they were."""
        excess = self.rows - most
        if excess <= 0:
            return 0
        forgotten = min(self.rows, excess + most // 10)  # a tenth more: not again with the next pair
        for field, values in self.columns.ListFields():
            if field.name == "trace_ids":
                self.columns.trace_ids = values[16 * forgotten :]
            elif field.name != "batches":
                del values[:forgotten]
        self.columns.ClearField("batches")
        self.drop("control", forgotten)
        return forgotten

    def sampled(self, rows: int) -> None:
        self.counts.sampled += rows

    def drop(self, cause: str, rows: int) -> None:
        self.counts.drops[cause] += rows

    def batch_of(self, record: RpcRecord, *, challenger: bool) -> None:
        """The time of the batch a request was in, once a batch as far as its members come one after the other."""
        batch = record.batch
        answered = batch.answered if batch is not None else None
        if (
            batch is None
            or answered is None
            or answered.stages is None
            or batch.span_id == self._last_batch[challenger]
        ):
            return
        self._last_batch[challenger] = batch.span_id
        took_us = (answered.stages.fetched_ns - answered.stages.copied_ns) // 1000
        if took_us > 0:
            self.columns.batches.add(tokens=batch.tokens, compute_us=took_us, challenger=challenger)

    def pair(self, inference: Inference, trace_id: bytes, answered: Side, asked: Side) -> None:
        """Both sides of one request, a row each."""
        turned = answered.version != self._incumbent
        incumbent, challenger = (asked, answered) if turned else (answered, asked)
        columns, now_us = self.columns, time.time_ns() // 1000
        for row in range(inference.rows):
            subject = inference.subjects[row] if row < len(inference.subjects) else UNKNOWN
            columns.at_us.append(now_us)
            columns.incumbent.append(incumbent.values[row])
            columns.challenger.append(challenger.values[row])
            columns.incumbent_error.append(incumbent.error)
            columns.challenger_error.append(challenger.error)
            columns.incumbent_us.append(incumbent.took_us)
            columns.challenger_us.append(challenger.took_us)
            columns.canary.append(turned)
            columns.amount.append(subject.amount)
            columns.currency.append(subject.currency)
            columns.event_id.append(subject.event_id)
            columns.entity.append(entity_hash(subject.entity, self.experiment_id) if subject.entity else 0)
            columns.incumbent_p.append(incumbent.probabilities[row] if incumbent.probabilities else nan)
            columns.challenger_p.append(challenger.probabilities[row] if challenger.probabilities else nan)
        columns.trace_ids += trace_id * inference.rows
