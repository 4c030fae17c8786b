"""Pairs on their way to control: bounded, and blamed on whoever is to blame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.core.inference import Answer, Inference, Subject
from headrace.core.octaves import bucket
from headrace.core.records import BatchRecord, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.core.tensors import ModelSpec, Signal, TensorSpec
from headrace.errors import DeadlinePassed, HeadraceError, InvalidInference, NotServing, Overloaded
from headrace.gateway.blame import is_evidence
from headrace.gateway.pairs import MAX_BATCHES, Notes, Reader, Side
from headrace.v1 import experiments_pb2 as pb

OUTPUTS = (TensorSpec("p", "FP32", (1,)), TensorSpec("score", "INT32", (1,)))
SPEC = ModelSpec("m", "1", "d", (), OUTPUTS, signal=Signal("fraud", "c"))


def record(queued_ns: int = 1_000, rows: int = 2) -> RpcRecord:
    return RpcRecord(bytes(16), 1, 0, sampled=True, start_ns=0, queued_ns=queued_ns, rows=rows)


def answer(p: list[float], score: list[int]) -> Answer:
    return Answer([np.array(p, "<f4").tobytes(), np.array(score, "<i4").tobytes()], 1, 1, 0)


def asked(outcome: Answer | HeadraceError) -> Side:
    return Reader(SPEC, "score").side(outcome, record(), 5_000_000)


def test_a_side_has_the_compared_value_and_the_probability_of_each_row() -> None:
    side = asked(answer([0.25, 0.5], [10, 90]))

    assert (side.values, side.probabilities, side.error, side.took_us) == ([10.0, 90.0], [0.25, 0.5], 0, 4999)


@pytest.mark.parametrize("said", [([0.5, 1.5], [1, 2]), ([0.5, 0.5], [1, 100]), ([0.5, 0.5], [-1, 2])])
def test_what_no_caller_would_be_told_is_garbage(said: tuple[list[float], list[int]]) -> None:
    side = asked(answer(*said))

    assert side.error == pb.PAIR_ERROR_GARBAGE
    assert all(map(math.isnan, side.values))


def test_a_caller_is_not_blamed_on_the_version_that_refused_it() -> None:
    def evidence(outcome: Answer | HeadraceError, queued_ns: int = 1_000) -> bool:
        return is_evidence(outcome, record(queued_ns))

    assert not evidence(InvalidInference("x"))
    assert not evidence(Overloaded("x"))
    assert not evidence(DeadlinePassed("at the door"), queued_ns=0)
    assert evidence(answer([0, 0], [0, 0]))
    assert evidence(DeadlinePassed("x"))
    late = asked(DeadlinePassed("x"))
    assert late.error == pb.PAIR_ERROR_TIMEOUT
    assert asked(InvalidInference("a value that the other one took")).error == pb.PAIR_ERROR_FAILED


def test_notes_are_empty_once_they_are_taken() -> None:
    notes = Notes("e", "1")
    assert notes.empty
    notes.incumbents.asked(answer([0], [0]), 0.004)
    notes.challengers.refused(NotServing("x"))
    assert not notes.empty
    notes.sampled(2)
    notes.drop("load", 1)

    _, counts = notes.take()

    assert counts == pb.SampleCounts(
        sampled=2,
        drops={"load": 1},
        incumbent_requests=1,
        incumbent_took={bucket(4_000): 1},
        challenger_requests=1,
        challenger_failures=1,
    )
    assert notes.empty
    assert notes.take() == (pb.PairColumns(), pb.SampleCounts())


def test_the_oldest_pairs_make_room_and_are_counted() -> None:
    notes = Notes("e", "1")
    side = asked(answer([0.5], [50]))
    for number in range(30):
        subject = Subject("card", f"event-{number}", 1.0, "EUR")
        inference = Inference(SPEC, [], 1, (), 1, 0.0, subjects=(subject,))
        notes.pair(inference, number.to_bytes(16), side, side)

    forgotten = notes.make_room(20)

    assert forgotten == 12
    assert notes.counts.drops["control"] == 12
    assert notes.rows == 18
    assert list(notes.columns.event_id) == [f"event-{number}" for number in range(12, 30)]
    assert notes.columns.trace_ids == b"".join(number.to_bytes(16) for number in range(12, 30))
    columns = {f.name: len(v) for f, v in notes.columns.ListFields() if f.name not in ("trace_ids", "batches")}
    assert set(columns.values()) == {18}


def test_times_of_batches_are_a_sample_that_does_not_grow_for_ever() -> None:
    notes = Notes("e", "1")
    for number in range(MAX_BATCHES + 100):
        stages = Stages(1, 1, 1, 1_000, 2_000, 3_000, 4_000)
        dispatch = DispatchRecord(1, 1, ReplicaIdentity("r"), 0, stages=stages)
        batch = BatchRecord(bytes(16), number + 1, "m", "1", "primary", 0, "slot", tokens=7, dispatches=[dispatch])
        each = record()
        each.batch = batch
        notes.batch_of(each, challenger=False)
        notes.batch_of(each, challenger=False)

    assert len(notes.columns.batches) == MAX_BATCHES
    assert (notes.columns.batches[0].tokens, notes.columns.batches[0].compute_us) == (7, 2)


@pytest.mark.parametrize(("datatype", "values"), [("BF16", [1.5, -2.0]), ("BYTES", [])])
def test_what_is_compared_are_numbers_whatever_lies_in_the_column(datatype: str, values: list[float]) -> None:
    said = TensorSpec("said", datatype, (1,), max_bytes=0 if datatype == "BF16" else 4)
    column = np.array([0x3FC0, 0xC000], "<u2").tobytes() if datatype == "BF16" else bytes(16)
    side = Reader(ModelSpec("m", "1", "d", (), (said,)), "said").side(Answer([column], 1, 1, 0), record(), 5_000)

    assert [value for value in side.values if not math.isnan(value)] == values
    assert (side.error == pb.PAIR_ERROR_GARBAGE) == (datatype == "BYTES")
