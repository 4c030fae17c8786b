"""Laws of packing: split ∘ pack is the identity, and a bad row leaves without its batch."""

from __future__ import annotations

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


def test_empty_rows_before_a_bad_one_do_not_shift_the_blame() -> None:
    empty, bad = rider(np.ones((0, 2)), [], 1), rider(np.full((1, 2), np.inf), [1], 2)
    riding = batch([empty, rider(np.ones((0, 2)), [], 3), bad])

    pack(riding)

    assert isinstance(bad.outcome, InvalidInference)
    assert len(riding.riders) == 2
