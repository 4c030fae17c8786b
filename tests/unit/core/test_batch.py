"""Laws of packing: split ∘ pack is the identity, and a bad row leaves without its batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.batch import Batch, pack, split
from headrace.core.inference import Inference
from headrace.core.records import BatchRecord, RpcRecord
from headrace.core.rider import Rider
from headrace.core.tensors import Axis, ModelSpec, TensorSpec
from headrace.errors import InvalidInference

SPEC = ModelSpec(
    name="m",
    version="1",
    digest="",
    inputs=(
        TensorSpec("events", "FP32", (-1, 2), axis="events", finite=True),
        TensorSpec("ts", "INT64", (-1,), axis="events", ordered=True),
        TensorSpec("key", "INT64", (1,), minimum=0),
    ),
    outputs=(TensorSpec("events_out", "FP32", (2,)), TensorSpec("key_out", "INT64", (1,))),
    axes=(Axis("events", 16),),
)


def rider(events: np.ndarray, ts: list[int], key: int) -> Rider:
    columns = [events.astype("<f4").tobytes(), np.array(ts, "<i8").tobytes(), np.array([key], "<i8").tobytes()]
    inference = Inference(SPEC, columns, 1, (len(ts),), max(1, len(ts)), float("inf"))
    return Rider(inference, RpcRecord(b"t" * 16, 1, 0, True, 0), lambda: None)


def batch(riders: list[Rider]) -> Batch:
    return Batch(SPEC, riders, BatchRecord(b"b" * 16, 1, "m", "1", "primary", 0, "slot"))


@given(st.lists(st.integers(0, 16), min_size=1, max_size=12))
def test_packing_joins_columns_and_lengths_without_padding(lengths: list[int]) -> None:
    riders = [rider(np.full((n, 2), i), list(range(n)), i) for i, n in enumerate(lengths)]

    packed = pack(batch(riders))

    assert packed.lengths[0].tolist() == lengths
    events = np.frombuffer(packed.columns[0], "<f4").reshape(-1, 2)
    assert events[:, 0].tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]
    assert np.frombuffer(packed.columns[2], "<i8").tolist() == list(range(len(lengths)))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_splitting_gives_every_rider_the_rows_it_brought(rows: list[int]) -> None:
    total = sum(rows)
    out = [
        np.arange(total * 2, dtype="<f4").tobytes(),
        np.arange(total, dtype="<i8").tobytes(),
    ]
    first = 0
    parts = []
    for n in rows:
        parts.append(split(SPEC, out, first, n))
        first += n

    assert b"".join(part[0] for part in parts) == out[0]
    assert b"".join(part[1] for part in parts) == out[1]
    assert [len(part[1]) // 8 for part in parts] == rows


def test_a_rider_with_a_bad_value_leaves_and_its_mates_stay() -> None:
    good, nan = rider(np.ones((3, 2)), [1, 2, 3], 1), rider(np.full((2, 2), np.nan), [1, 2], 2)
    backwards, negative = rider(np.ones((2, 2)), [2, 1], 3), rider(np.ones((1, 2)), [0], -4)
    last = rider(np.ones((1, 2)), [0], 5)  # earlier than the row before it, which is no fault of its own
    riding = batch([good, nan, backwards, negative, last])

    packed = pack(riding)

    assert riding.riders == [good, last]
    assert good.outcome is None
    assert np.frombuffer(packed.columns[2], "<i8").tolist() == [1, 5]
    complaints = [str(r.outcome) for r in (nan, backwards, negative)]
    assert all(isinstance(r.outcome, InvalidInference) for r in (nan, backwards, negative))
    assert complaints == [
        "input 'events' has a value that is not finite for model 'm'",
        "input 'ts' is not in ascending order for model 'm'",
        "input 'key' has a value below 0 for model 'm'",
    ]


def test_a_batch_wants_extras_as_long_as_somebody_on_board_does() -> None:
    plain, asking, bad = (rider(np.full((2, 2), value), [1, 2], 1) for value in (1, 1, np.nan))
    asking.inference.wants_extras = bad.inference.wants_extras = True
    mixed, spoilt = batch([plain, asking]), batch([plain, bad])

    pack(spoilt)

    assert (mixed.wants_extras, spoilt.wants_extras, batch([plain]).wants_extras) == (True, False, False)


def test_splitting_gives_extras_where_somebody_asked_and_none_where_nobody_did() -> None:
    spec = replace(SPEC, extras=(TensorSpec("why", "INT32", (2,), costs_rows=1),))
    columns = [np.arange(6, dtype="<f4").tobytes(), np.arange(3, dtype="<i8").tobytes()]
    why = np.arange(6, dtype="<i4")

    asked, unasked = split(spec, [*columns, why.tobytes()], 1, 2), split(spec, columns, 1, 2)

    assert [len(part) for part in unasked] == [16, 16]
    assert asked == [*unasked, why[2:].tobytes()]


def test_empty_rows_before_a_bad_one_do_not_shift_the_blame() -> None:
    empty, bad = rider(np.ones((0, 2)), [], 1), rider(np.full((1, 2), np.inf), [1], 2)
    riding = batch([empty, rider(np.ones((0, 2)), [], 3), bad])

    pack(riding)

    assert isinstance(bad.outcome, InvalidInference)
    assert len(riding.riders) == 2


TWO_AXES = ModelSpec(
    name="m",
    version="1",
    digest="",
    inputs=(
        TensorSpec("a", "INT64", (-1,), axis="a", minimum=0),
        TensorSpec("b", "INT32", (-1, 2), axis="b"),
        TensorSpec("key", "INT64", (1,)),
    ),
    outputs=(TensorSpec("a_sum", "INT64", (1,)), TensorSpec("b_sum", "INT64", (1,)), TensorSpec("key", "INT64", (1,))),
    axes=(Axis("a", 16), Axis("b", 16)),
)
Rows = list[tuple[list[int], list[int], int]]
"""For each row: the entries of axis a, those of axis b, and its key."""


def rider_of(rows: Rows) -> Rider:
    lengths = tuple((len(a), len(b)) for a, b, _ in rows)
    equal = len(set(lengths)) == 1
    columns = [
        np.array([x for a, _, _ in rows for x in a], "<i8").tobytes(),
        np.array([(x, x) for _, b, _ in rows for x in b], "<i4").tobytes(),
        np.array([key for _, _, key in rows], "<i8").tobytes(),
    ]
    tokens = sum(max(1, sum(row)) for row in lengths)
    inference = Inference(
        TWO_AXES, columns, len(rows), lengths[0], tokens, float("inf"), row_lengths=None if equal else lengths
    )
    return Rider(inference, RpcRecord(b"t" * 16, 1, 0, True, 0), lambda: None)


def sums(rows: Rows) -> list[list[int]]:
    return [[sum(a) for a, _, _ in rows], [2 * sum(b) for _, b, _ in rows], [key for _, _, key in rows]]


entries = st.lists(st.integers(0, 100), max_size=4)
ragged = st.lists(st.tuples(entries, entries, st.integers(0, 100)), min_size=1, max_size=4)
uniform = st.tuples(entries, entries, st.integers(0, 100), st.integers(1, 4)).map(lambda row: [row[:3]] * row[3])


@given(st.lists(ragged | uniform, min_size=1, max_size=6))
def test_every_rider_gets_its_own_rows_back_whether_their_lengths_differ_or_not(riders: list[Rows]) -> None:
    riding = Batch(TWO_AXES, [rider_of(rows) for rows in riders], BatchRecord(b"b" * 16, 1, "m", "1", "primary", 0, ""))

    packed = pack(riding)
    borders = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in packed.lengths]
    parts = [
        [np.frombuffer(column, dtype).reshape(-1, width)[begin:end].sum() for begin, end in pairwise(places)]
        for column, dtype, width, places in zip(packed.columns, ("<i8", "<i4"), (1, 2), borders, strict=False)
    ]
    answer = [np.array(part, "<i8").tobytes() for part in parts] + [packed.columns[2]]

    assert all(len(lengths) == riding.rows for lengths in packed.lengths)
    assert riding.tokens == sum(max(1, a + b) for a, b in zip(*(p.tolist() for p in packed.lengths), strict=True))
    row = 0
    for rows in riders:
        found = [np.frombuffer(part, "<i8").tolist() for part in split(TWO_AXES, answer, row, len(rows))]
        assert found == sums(rows)
        row += len(rows)


def test_a_bad_row_of_many_lengths_takes_its_own_rider_out_and_no_other() -> None:
    good, mate = rider_of([([1], [2, 3], 4), ([], [], 5)]), rider_of([([7, 8], [], 9)] * 2)
    bad = rider_of([([1, 2], [], 1), ([3, -1], [4], 2)])
    riding = Batch(TWO_AXES, [good, bad, mate], BatchRecord(b"b" * 16, 1, "m", "1", "primary", 0, ""))

    packed = pack(riding)

    assert riding.riders == [good, mate]
    assert str(bad.outcome) == "input 'a' has a value below 0 for model 'm'"
    assert [lengths.tolist() for lengths in packed.lengths] == [[1, 0, 2, 2], [2, 0, 0, 0]]


def test_a_batch_of_bad_rows_alone_is_empty_and_everyone_is_told() -> None:
    only = rider(np.full((2, 2), np.nan), [1, 2], 1)
    alone = batch([only])

    assert pack(alone).columns == []
    assert not alone.riders
    assert isinstance(only.outcome, InvalidInference)


def test_bfloat16_is_checked_as_the_number_that_its_bits_are() -> None:
    """As integers, no bits are infinite, and those below zero are the largest."""
    spec = ModelSpec("m", "1", "", (TensorSpec("x", "BF16", (2,), finite=True, minimum=0),), ())
    one, infinity, below, quiet = 0x3F80, 0x7F80, 0xBF80, 0x7FC0
    riders = [
        Rider(
            Inference(spec, [np.array(bits, "<u2").tobytes()], 1, (), 1, float("inf")),
            RpcRecord(b"t" * 16, 1, 0, True, 0),
            lambda: None,
        )
        for bits in ([one, one], [one, infinity], [below, one], [quiet, one], [0, one])
    ]
    together = Batch(spec, list(riders), BatchRecord(b"b" * 16, 1, "m", "1", "primary", 0, "slot"))

    packed = pack(together)

    assert together.riders == [riders[0], riders[4]]
    assert packed.columns == [np.array([one, one, 0, one], "<u2").tobytes()]
    assert [str(rider.outcome) for rider in riders[1:4]] == [
        "input 'x' has a value that is not finite for model 'm'",
        "input 'x' has a value below 0 for model 'm'",
        "input 'x' has a value that is not finite for model 'm'",
    ]
