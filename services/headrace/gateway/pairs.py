"""Pairs on their way to control: two sides of one request become a row of columns, and what is no pair is counted.

Filled by shadow lanes, emptied by `telling`. One `Notes` a comparison.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from math import inf, nan
from typing import Final, Self

from headrace.core.inference import UNKNOWN, Answer, Inference
from headrace.core.instead import RANGES
from headrace.core.records import RpcRecord
from headrace.core.routing import entity_hash
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import HeadraceError
from headrace.gateway.blame import ERRORS
from headrace.gateway.callers import Callers, Got
from headrace.v1 import experiments_pb2

MAX_US: Final = 2**32 - 1
PROBABILITY: Final = "p"
"""The output that calibration is measured on, where another one is compared."""
MAX_BATCHES: Final = 4096
"""Times of batches that wait to be told: a sample is enough, and control may be away for long."""


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


class Reader:
    """How the answers of one version are read for a comparison: worked out once, not for each of them."""

    def __init__(self, spec: ModelSpec, output: str) -> None:
        self.spec = spec
        self._value = _Column.of(spec, output)
        self._probability = None if output == PROBABILITY else _Column.of(spec, PROBABILITY)

    def side(self, outcome: Answer | HeadraceError, record: RpcRecord, now_ns: int) -> Side:
        """What came of a request, or of a copy: there a refusal is a failure, of what the other version took."""
        values: list[float] | None = None
        probabilities: list[float] | None = []
        if isinstance(outcome, Answer):
            error = experiments_pb2.PAIR_ERROR_GARBAGE
            values = self._value.read(outcome) if self._value else None
            probabilities = self._probability.read(outcome) if self._probability else []
        else:
            error = ERRORS.get(type(outcome), experiments_pb2.PAIR_ERROR_FAILED)
        took_us = min(max(0, now_ns - record.queued_ns) // 1000, MAX_US)
        if values is None or probabilities is None:
            return Side([nan] * record.rows, [], error, took_us, self.spec.version)
        return Side(values, probabilities, experiments_pb2.PAIR_ERROR_UNSPECIFIED, took_us, self.spec.version)


@dataclass(frozen=True, slots=True)
class _Column:
    """One output that is a number a row."""

    position: int
    tensor: TensorSpec
    least: float
    most: float

    @classmethod
    def of(cls, spec: ModelSpec, name: str) -> Self | None:
        """None where the model has no such output, or it is no number."""
        position = spec.output_index.get(name)
        if position is None or spec.answers[position].dims not in ((), (1,)) or spec.answers[position].kind == "S":
            return None
        # A signal's numbers lie where RiskService tells them; other outputs may be any.
        least, most = RANGES.get(name, (-inf, inf)) if spec.signal is not None else (-inf, inf)
        return cls(position, spec.answers[position], least, most)

    def read(self, answer: Answer) -> list[float] | None:
        """One number a row; None where one of them is what no caller would be told."""
        values: list[float] = self.tensor.numbers(answer.columns[self.position]).tolist()
        for value in values:
            if not self.least <= value <= self.most:
                return None
        return values or None


class Notes:
    """What one comparison has noted since it was emptied the last time."""

    def __init__(self, experiment_id: str, incumbent: str) -> None:
        self.experiment_id = experiment_id
        self.columns = experiments_pb2.PairColumns()
        self._sampled = 0
        self._drops: Counter[str] = Counter()
        self.incumbents, self.challengers = Callers(), Callers()
        """What those got who asked either version."""
        self._incumbent = incumbent
        self._last_batch = {True: 0, False: 0}

    @property
    def rows(self) -> int:
        return len(self.columns.at_us)

    @property
    def empty(self) -> bool:
        return not (self.rows or self.columns.batches or self.counts.ByteSize())

    @property
    def counts(self) -> experiments_pb2.SampleCounts:
        """What is counted, as control takes it."""
        return _counts(self._sampled, self._drops, self.incumbents.got, self.challengers.got)

    def take(self) -> tuple[experiments_pb2.PairColumns, experiments_pb2.SampleCounts]:
        """Everything noted; the notes are empty then."""
        taken = self.columns, _counts(self._sampled, self._drops, self.incumbents.take(), self.challengers.take())
        self.columns = experiments_pb2.PairColumns()
        self._sampled = 0
        self._drops.clear()
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
        self.drop("control", forgotten)
        return forgotten

    def sampled(self, rows: int) -> None:
        self._sampled += rows

    def drop(self, cause: str, rows: int) -> None:
        self._drops[cause] += rows

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
        if len(self.columns.batches) >= MAX_BATCHES:
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


def _counts(sampled: int, drops: Counter[str], incumbents: Got, challengers: Got) -> experiments_pb2.SampleCounts:
    return experiments_pb2.SampleCounts(
        sampled=sampled,
        drops=drops,
        incumbent_requests=incumbents.requests,
        incumbent_failures=incumbents.failures,
        incumbent_took=incumbents.took,
        challenger_requests=challengers.requests,
        challenger_failures=challengers.failures,
        challenger_took=challengers.took,
    )
