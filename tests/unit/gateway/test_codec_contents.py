"""Typed contents: the same bytes as raw ones, and no value that its datatype cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2

from headrace.core.tensors import DATATYPES, ModelSpec, TensorSpec
from headrace.errors import InvalidInference
from headrace.gateway import codec
from headrace.gateway.codec.contents import CONTENTS, bfloat16

SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST_BF16 = 2.0**127 * (2 - 2**-7)


def decoded(datatype: str, values: list[Any], field: str = "") -> bytes:
    spec = ModelSpec("m", "1", "", (TensorSpec("x", datatype, (len(values),), max_bytes=8),), ())
    message = service_pb2.ModelInferRequest(model_name="m")
    given = message.inputs.add(name="x", datatype=datatype, shape=(1, len(values)))
    getattr(given.contents, field or CONTENTS[datatype]).extend(values)
    return codec.Decoder(spec).decode(message, 0.0).columns[0]


def test_every_datatype_has_a_field_and_every_field_a_datatype() -> None:
    fields = service_pb2.InferTensorContents.DESCRIPTOR.fields_by_name

    assert CONTENTS.keys() == DATATYPES.keys()
    assert set(CONTENTS.values()) == set(fields)


@given(st.lists(SINGLES, min_size=1, max_size=8))
def test_bfloat16_is_the_nearest_as_torch_rounds_it(values: list[float]) -> None:
    singles = np.array(values, np.float32)

    assert bfloat16(singles).tolist() == torch.from_numpy(singles).bfloat16().view(torch.uint16).tolist()


@given(st.data(), st.sampled_from(sorted(CONTENTS.keys() - {"BYTES"})))
def test_typed_contents_are_the_bytes_that_raw_ones_would_be(data: st.DataObject, datatype: str) -> None:
    kind = np.dtype("<f4") if datatype == "BF16" else DATATYPES[datatype]
    elements: Any = arrays.from_dtype(kind, allow_nan=False, allow_infinity=False)
    values = data.draw(arrays.arrays(kind, data.draw(st.integers(1, 6)), elements=elements))
    if datatype == "BF16":
        column = (values.view("<u4") >> 16).astype("<u2").tobytes()  # cut off: whatever is left is one exactly
        values = TensorSpec("x", "BF16", (1,)).numbers(column)
    else:
        column = values.tobytes()

    assert decoded(datatype, values.tolist()) == column


def test_of_two_that_are_as_near_it_is_the_even_one_and_nan_stays_nan() -> None:
    between = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)], np.float32)
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001], "<u4").view("<f4")

    assert bfloat16(between).tolist() == [0x3F80, 0x3F82, 0xBF80]
    assert np.isnan(TensorSpec("x", "BF16", (3,)).numbers(bfloat16(bits).tobytes())).all()


@given(st.lists(SINGLES.filter(lambda value: abs(value) < 65_520), min_size=1, max_size=8))
def test_a_half_is_the_nearest(values: list[float]) -> None:
    assert decoded("FP16", values) == np.array(values, np.float32).astype("<f2").tobytes()


@pytest.mark.parametrize(
    ("datatype", "fits", "beyond"),
    [
        ("FP16", [65_519.0, -65_519.0], 65_520.0),
        ("BF16", [LARGEST_BF16, -LARGEST_BF16], 2.0**127 * (2 - 2**-9)),
        ("INT8", [-128, 127], 128),
        ("INT16", [-32_768, 32_767], -32_769),
        ("UINT8", [0, 255], 256),
        ("UINT16", [0, 65_535], 65_536),
    ],
)
def test_what_does_not_fit_is_refused_and_never_becomes_infinity_or_another_number(
    datatype: str, fits: list[Any], beyond: Any
) -> None:
    assert len(decoded(datatype, fits)) == 2 * DATATYPES[datatype].itemsize
    with pytest.raises(InvalidInference, match=f"input 'x' for model 'm' has a value outside of {datatype}"):
        decoded(datatype, [fits[0], beyond])


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32"])
def test_infinity_itself_is_the_callers_own(datatype: str) -> None:
    column = decoded(datatype, [float("inf"), float("-inf"), float("nan")])

    found = TensorSpec("x", datatype, (3,)).numbers(column)
    assert found[:2].tolist() == [float("inf"), float("-inf")]
    assert np.isnan(found[2])


def test_truths_are_a_byte_each() -> None:
    assert decoded("BOOL", [True, False, True]) == b"\1\0\1"


def test_two_fields_at_once_are_refused_by_name() -> None:
    spec = ModelSpec("m", "1", "", (TensorSpec("x", "FP32", (1,)),), ())
    message = service_pb2.ModelInferRequest(model_name="m")
    given = message.inputs.add(name="x", datatype="FP32", shape=(1, 1))
    given.contents.fp32_contents.append(1)
    given.contents.int_contents.append(1)

    with pytest.raises(InvalidInference, match="is FP32, which fp32_contents carries, not int_contents"):
        codec.Decoder(spec).decode(message, 0.0)
