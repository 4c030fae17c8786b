"""The same question to another version: as if its caller had asked that one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.adapting import adapted
from headrace.core.inference import Inference
from headrace.core.tensors import Axis, ModelSpec, TensorSpec

EVENTS = TensorSpec("events", "INT32", (-1,), "events")
PAIRS = TensorSpec("pairs", "INT32", (-1, 2), "events")
KEY = TensorSpec("key", "INT64", (1,))
EXTRA = TensorSpec("extra", "FP32", (3,), optional=True)
SPEC = ModelSpec("m", "1", "d", (EVENTS, PAIRS, KEY), (), (Axis("events", 8),))


def spec(*inputs: TensorSpec, cap: int = 8, max_rows: int = 64) -> ModelSpec:
    axes = (Axis("events", cap),) if any(tensor.axis for tensor in inputs) else ()
    return ModelSpec("m", "2", "d", inputs, (), axes, max_rows=max_rows)


def question(lengths: list[int]) -> Inference:
    events = np.arange(sum(lengths), dtype="<i4")
    columns = [events.tobytes(), np.repeat(events, 2).tobytes(), np.arange(len(lengths), dtype="<i8").tobytes()]
    rows = tuple((length,) for length in lengths)
    tokens = sum(max(1, length) for length in lengths)
    alike = len(set(lengths)) == 1
    return Inference(SPEC, columns, len(lengths), rows[0], tokens, 1.0, row_lengths=None if alike else rows)


def numbers(column: bytes, dtype: str = "<i4") -> list[int]:
    return np.frombuffer(column, dtype).tolist()


def test_the_same_inputs_are_shared_not_copied() -> None:
    asked = question([2, 2])

    copy = adapted(asked, replace(SPEC, version="2"), 9.0)

    assert copy is not None
    assert all(mine is theirs for mine, theirs in zip(copy.columns, asked.columns, strict=True))
    assert (copy.rows, copy.lengths, copy.tokens, copy.deadline) == (2, (2,), 4, 9.0)
    assert asked.deadline == 1.0


def test_inputs_go_by_name_and_what_only_the_other_knows_is_left_out_or_zero() -> None:
    copy = adapted(question([2]), spec(KEY, EVENTS, EXTRA), 9.0)

    assert copy is not None
    assert numbers(copy.columns[0], "<i8") == [0]
    assert numbers(copy.columns[1]) == [0, 1]
    assert copy.columns[2] == bytes(12)


def test_a_version_that_needs_more_than_there_is_cannot_be_asked() -> None:
    needed = replace(EXTRA, optional=False)
    ragged = TensorSpec("more", "INT32", (-1,), "events", optional=True)

    assert adapted(question([2]), spec(EVENTS, needed), 9.0) is None
    assert adapted(question([2]), spec(EVENTS, ragged), 9.0) is None
    assert adapted(question([2]), spec(replace(EVENTS, datatype="INT64")), 9.0) is None
    assert adapted(question([2] * 5), spec(EVENTS, max_rows=4), 9.0) is None


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 9))
def test_histories_keep_their_newest_events_within_the_others_cap(lengths: list[int], cap: int) -> None:
    asked = question(lengths)

    copy = adapted(asked, spec(PAIRS, EVENTS, cap=cap), 9.0)

    assert copy is not None
    kept, begin = [], 0
    for length in lengths:
        kept += list(range(begin, begin + length))[max(0, length - cap) :]
        begin += length
    assert numbers(copy.columns[1]) == kept
    assert numbers(copy.columns[0]) == np.repeat(kept, 2).tolist()
    assert copy.tokens == sum(max(1, min(length, cap)) for length in lengths)
    rows = copy.row_lengths or (copy.lengths,) * copy.rows
    assert rows == tuple((min(length, cap),) for length in lengths)


def test_strings_of_another_width_are_another_input() -> None:
    """Their columns are laid out by the width: the other version would read in the middle of a string."""
    name = TensorSpec("name", "BYTES", (1,), max_bytes=4)
    own = ModelSpec("m", "1", "d", (name,), ())
    asked = Inference(own, [b"\1\0\0\0a\0\0\0"], 1, (), 1, 1.0)
    same, wider = spec(replace(name)), spec(replace(name, max_bytes=8))
    optional = spec(replace(name, max_bytes=8, optional=True))

    assert adapted(asked, wider, 1.0) is None
    assert (copy := adapted(asked, same, 1.0)) is not None
    assert copy.columns == asked.columns
    assert adapted(asked, optional, 1.0) is None
