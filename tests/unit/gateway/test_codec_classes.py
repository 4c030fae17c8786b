"""Classes: of each row the highest values first, as C++ writes them, with their places and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.core.tensors import DATATYPES, TensorSpec
from headrace.gateway.codec.classification import FLOATS, INTEGERS, ranked


def told(tensor: TensorSpec, values: np.ndarray, most: int) -> list[list[str]]:
    """What a client reads, a row a list."""
    raw, texts = ranked(values.tobytes(), tensor, most), []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return [texts[at : at + most] for at in range(0, len(texts), most)]


@st.composite
def outputs(draw: st.DrawFn) -> tuple[TensorSpec, np.ndarray, int]:
    datatype = draw(st.sampled_from(sorted(INTEGERS | FLOATS)))
    dtype, dims = DATATYPES[datatype], draw(st.sampled_from([(1,), (5,), (2, 3)]))
    elements: Any = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    if draw(st.booleans()):
        elements = st.sampled_from([0, 1, 2])  # many that are equal
    values = draw(arrays.arrays(dtype, (draw(st.integers(1, 4)), *dims), elements=elements))
    return TensorSpec("y", datatype, dims), values, draw(st.integers(1, int(np.prod(dims))))


@given(outputs())
def test_the_highest_come_first_and_of_equals_the_lowest_place(drawn: tuple[TensorSpec, np.ndarray, int]) -> None:
    tensor, values, most = drawn
    for found, row in zip(told(tensor, values, most), values.reshape(len(values), -1).tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))[:most]
        form = "{:f}" if tensor.datatype in FLOATS else "{:d}"

        assert found == [f"{form.format(row[place])}:{place}" for place in order]


@pytest.mark.parametrize(
    ("datatype", "value", "text"),
    [
        ("FP32", 0.1, "0.100000:0"),
        ("FP32", 1e-7, "0.000000:0"),
        ("FP32", -0.0, "-0.000000:0"),
        ("FP32", 16_777_217.0, "16777216.000000:0"),
        ("FP64", 1e15 / 3, "333333333333333.312500:0"),
        ("INT8", -128, "-128:0"),
        ("INT64", -(2**63), "-9223372036854775808:0"),
        ("UINT64", 2**64 - 1, "18446744073709551615:0"),
    ],
)
def test_a_value_is_written_as_std_to_string_does(datatype: str, value: float, text: str) -> None:
    assert told(TensorSpec("y", datatype, (1,)), np.array([[value]], DATATYPES[datatype]), 1) == [[text]]


def test_labels_stand_behind_their_places() -> None:
    tensor = TensorSpec("y", "INT32", (3,), labels=("low", "mid", "high"))

    assert told(tensor, np.array([[1, 9, 5]], "<i4"), 2) == [["9:1:mid", "5:2:high"]]
