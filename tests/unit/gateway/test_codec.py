"""Extras and inputs that may be left out, at the codec: what becomes of a request, and of its answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from headrace.core.inference import Answer, Inference
from headrace.core.tensors import Axis, ModelSpec, TensorSpec
from headrace.errors import InvalidInference
from headrace.gateway import codec

SPEC = ModelSpec(
    name="m",
    version="1",
    digest="",
    inputs=(
        TensorSpec("events", "FP32", (-1, 2), axis="events"),
        TensorSpec("key", "INT64", (1,)),
        TensorSpec("state", "FP32", (3,), optional=True),
        TensorSpec("last", "INT32", (1,), optional=True),
    ),
    outputs=(TensorSpec("p", "FP32", (1,)), TensorSpec("score", "INT32", (1,))),
    axes=(Axis("events", 16),),
    extras=(
        TensorSpec("why", "FP32", (2,), labels=("a", "b"), costs_rows=4),
        TensorSpec("how", "INT64", (1,), costs_rows=3),
    ),
)
STATE = np.array([[1.0, 2.0, 3.0]], np.float32)


def ask(*outputs: str, rows: int = 1, length: int = 5, **optional: np.ndarray) -> service_pb2.ModelInferRequest:
    """All that is required, and what is given of the rest."""
    columns: dict[str, Any] = {"events": np.ones((rows, length, 2), np.float32), "key": np.ones((rows, 1), np.int64)}
    message = service_pb2.ModelInferRequest(model_name="m")
    for name, column in (columns | optional).items():
        datatype = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "float64": "FP64"}[column.dtype.name]
        message.inputs.add(name=name, datatype=datatype, shape=column.shape)
        message.raw_input_contents.append(column.tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    return message


def decode(message: service_pb2.ModelInferRequest) -> Inference:
    return codec.Decoder(SPEC).decode(message, 0.0, codec.asked(message))


def answered(message: service_pb2.ModelInferRequest) -> list[tuple[str, str, list[int], bytes]]:
    """What its caller would read, out of a batch in which somebody asks for extras."""
    columns = [b"pppp", b"ssss", b"wwwwwwww", b"hhhhhhhh"]
    response = codec.encode(decode(message), Answer(columns, batch_id=1, batch_rows=1, queue_us=0))
    return [
        (output.name, output.datatype, list(output.shape), data)
        for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
    ]


# Extras ---------------------------------------------------------------------------------------------------------------


def test_who_names_nothing_gets_the_outputs_and_no_extra() -> None:
    assert [name for name, *_ in answered(ask())] == ["p", "score"]
    assert decode(ask()).wants_extras is False
    assert decode(ask("score")).wants_extras is False


@pytest.mark.parametrize("named", [["why"], ["p", "why"], ["how", "score", "why", "p"], ["why", "how"]])
def test_whoever_names_an_extra_gets_it_in_the_order_of_the_request(named: list[str]) -> None:
    everything = {
        "p": ("p", "FP32", [1, 1], b"pppp"),
        "score": ("score", "INT32", [1, 1], b"ssss"),
        "why": ("why", "FP32", [1, 2], b"wwwwwwww"),
        "how": ("how", "INT64", [1, 1], b"hhhhhhhh"),
    }

    assert answered(ask(*named)) == [everything[name] for name in named]
    assert decode(ask(*named)).wants_extras is True


@pytest.mark.parametrize("named", [["why"], ["p", "how"], ["how", "why"]])
def test_extras_count_as_the_rows_that_all_of_them_cost(named: list[str]) -> None:
    """A module computes all its extras at once, whichever are named."""
    assert decode(ask("p", rows=3, length=5)).tokens == 15
    assert decode(ask(*named, rows=3, length=5)).tokens == 15 * (1 + 4 + 3)
    assert decode(ask(*named, rows=3, length=0)).tokens == 3 * (1 + 4 + 3)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (["why", "when"], "unexpected inference output 'when' for model 'm'"),
        (["why", "p", "why"], "output 'why' already exists in request"),
    ],
)
def test_an_output_that_is_not_there_is_refused_beside_an_extra_too(named: list[str], sentence: str) -> None:
    with pytest.raises(InvalidInference) as refused:
        decode(ask(*named))

    assert str(refused.value) == sentence


# Inputs that may be left out ------------------------------------------------------------------------------------------


def test_what_is_left_out_is_zeros_for_every_row() -> None:
    inference = decode(ask(rows=2))

    assert inference.columns[2:] == [bytes(2 * 12), bytes(2 * 4)]
    assert (inference.rows, inference.lengths, inference.tokens) == (2, (5,), 10)


def test_what_is_given_is_taken_wherever_it_stands() -> None:
    message = ask(last=np.array([[9]], np.int32), state=STATE)
    one = decode(ask(state=STATE))

    assert decode(message).columns[2:] == [STATE.tobytes(), np.array([9], "<i4").tobytes()]
    assert one.columns[2:] == [STATE.tobytes(), bytes(4)]


def test_typed_contents_may_leave_it_out_or_bring_it() -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="events", datatype="FP32", shape=[1, 1, 2]).contents.fp32_contents.extend([1.5, 2.5])
    message.inputs.add(name="key", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(7)
    without = decode(message)
    message.inputs.add(name="state", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])

    assert without.columns[2:] == [bytes(12), bytes(4)]
    assert decode(message).columns[2:] == [STATE.tobytes(), bytes(4)]


@pytest.mark.parametrize(
    ("optional", "sentence"),
    [
        (
            {"state": np.ones((1, 2), np.float32)},
            "unexpected shape for input 'state' for model 'm'. Expected [-1,3], got [1,2].",
        ),
        (
            {"state": np.ones((1, 3), np.float64)},
            "inference input 'state' data-type is 'FP64', but model 'm' expects 'FP32'",
        ),
        ({"last": np.ones((2, 1), np.int32)}, "input 'last' batch size does not match other inputs for 'm'"),
        ({"mood": np.ones((1, 1), np.int32)}, "unexpected inference input 'mood' for model 'm'"),
    ],
    ids=["shape", "datatype", "rows", "unknown"],
)
def test_what_may_be_left_out_is_checked_where_it_is_given(optional: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInference) as refused:
        decode(ask(**optional))

    assert str(refused.value) == sentence


def test_bytes_that_are_too_few_are_told_of_what_may_be_left_out_too() -> None:
    message = ask(state=STATE)
    message.raw_input_contents[2] = b"1234"

    with pytest.raises(InvalidInference, match=r"mismatch for input 'state' for model 'm'\. Expected 12, got 4"):
        decode(message)


@pytest.mark.parametrize(("given", "missing"), [({}, "'key'"), ({"state": STATE}, "'key'")])
def test_only_what_is_required_is_called_missing(given: dict[str, Any], missing: str) -> None:
    """Triton's sentence for a model with optional inputs."""
    message = ask(**given)
    del message.inputs[1], message.raw_input_contents[1]
    names = ",".join(f"'{name}'" for name in ("events", *given))

    with pytest.raises(InvalidInference) as refused:
        decode(message)

    assert str(refused.value) == (
        f"expected number of inputs between 2 and 4 but got {1 + len(given)} inputs for model 'm'. "
        f"Got input(s) [{names}], but missing required input(s) [{missing}]. Please provide all required input(s)."
    )
