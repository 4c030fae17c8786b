"""Requests that are wrong, each kind in a way of its own, and how each may end. By a seed, so always the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tests.bad_input.served import BOUND
from tests.fuzz.mutation import TEXTS, mutated
from tests.payments import payment
from tritonclient.grpc import service_pb2

from headrace.v1 import risk_pb2

OIP: Final = "/inference.GRPCInferenceService/"
INFER: Final = f"{OIP}ModelInfer"
CAP: Final = 8
"""The toy's, of its one axis."""
INVALID: Final = frozenset({"INVALID_ARGUMENT"})
UNKNOWN_MODEL: Final = frozenset({"NOT_FOUND"})
UNOFFERED: Final = frozenset({"UNIMPLEMENTED"})
UNREADABLE: Final = frozenset({"INTERNAL: Exception deserializing request!"})
"""What every gRPC server says of bytes that are no message. Source: grpc's statuscodes.md."""
REFUSED: Final = INVALID | UNKNOWN_MODEL | UNOFFERED
RIGHT: Final = frozenset({"right"})


class Sent(NamedTuple):
    """One request, and how it may end."""

    path: str
    message: bytes
    ends: frozenset[str]
    metadata: tuple[tuple[str, str | bytes], ...] = ()


def good(source: random.Random) -> Any:
    """One to three rows of the toy."""
    rows, length = source.randint(1, 3), source.randint(0, CAP + 3)
    amounts = np.array([[source.randint(-99, 99) for _ in range(length)] for _ in range(rows)], np.float32)
    message = service_pb2.ModelInferRequest(model_name="toy", id=str(source.randrange(1000)))
    message.inputs.add(name="amount", datatype="FP32", shape=(rows, length))
    message.raw_input_contents.append(amounts.tobytes())
    return message


def is_right(sent: bytes, answer: bytes) -> bool:
    """Whether the answer is that of the toy to exactly this request: worked out from the request alone."""
    request = service_pb2.ModelInferRequest.FromString(sent)
    response = service_pb2.ModelInferResponse.FromString(answer)
    (given,) = request.inputs
    raw = request.raw_input_contents
    values = np.frombuffer(raw[0], "<f4") if raw else np.array(given.contents.fp32_contents, "<f4")
    values = values.reshape(tuple(given.shape))
    values = values[:, max(0, values.shape[1] - CAP) :].astype(np.float64)
    expected = {
        "total": np.clip(values.sum(1), -BOUND, BOUND),
        "count": np.full(len(values), values.shape[1]),
    }
    tolerance = {"total": 1e-5 * np.abs(values).sum(1) + 1e-30, "count": 0}
    wanted = [output.name for output in request.outputs] or ["total", "count"]
    found = zip(response.outputs, response.raw_output_contents, strict=True)
    return [output.name for output in response.outputs] == wanted and all(
        bool((np.abs(np.frombuffer(data, _dtype(output)) - expected[output.name]) <= tolerance[output.name]).all())
        for output, data in found
    )


def _dtype(output: Any) -> str:
    return {"FP32": "<f4", "INT64": "<i8"}[output.datatype]


def _infer(change: Callable[[Any, random.Random], object], ends: frozenset[str]) -> Callable[[random.Random], Sent]:
    """A good request with one thing wrong."""

    def make(source: random.Random) -> Sent:
        message = good(source)
        change(message, source)
        return Sent(INFER, message.SerializeToString(), ends)

    return make


def _shape(message: Any, source: random.Random) -> None:
    sizes = (-(2**63), -1, 0, 1, 2, 17, 2**31, 2**32, 2**33, 2**62, 2**63 - 1)
    now = tuple(message.inputs[0].shape)
    while (shape := tuple(source.choices(sizes, k=source.randint(0, 4)))) == now or _holds(shape, message):
        pass
    message.inputs[0].ClearField("shape")
    message.inputs[0].shape.extend(shape)


def _holds(shape: tuple[int, ...], message: Any) -> bool:
    """It is the shape of the bytes after all."""
    return len(shape) == 2 and 4 * shape[0] * shape[1] == len(message.raw_input_contents[0]) and 1 <= shape[0] <= 16


def _bytes(message: Any, source: random.Random) -> None:
    data = message.raw_input_contents[0]
    message.raw_input_contents[0] = source.choice((data + b"\0", data + bytes(4), data[:-1] or b"1", data * 3 + b"1"))


def _values(message: Any, source: random.Random) -> None:
    value = source.choice((np.nan, np.inf, -np.inf))
    message.inputs[0].ClearField("shape")
    message.inputs[0].shape.extend((1, 2))
    message.raw_input_contents[0] = np.array([1, value], "<f4").tobytes()


def _contents(message: Any, source: random.Random) -> None:
    field = source.choice(("int_contents", "int64_contents", "fp64_contents", "bool_contents", "uint_contents"))
    message.inputs[0].ClearField("shape")
    message.inputs[0].shape.extend((1, 2))
    if source.random() < 0.5:
        del message.raw_input_contents[:]
    getattr(message.inputs[0].contents, field).extend([1, 0])


def _names(message: Any, source: random.Random) -> None:
    match source.randrange(4):
        case 0:
            message.inputs[0].name = source.choice(TEXTS)
        case 1:
            message.inputs.add().CopyFrom(message.inputs[0])
        case 2:
            message.inputs[0].datatype = source.choice((*TEXTS, "FP64", "BYTES", "BF16", "fp32"))
        case _:
            del message.inputs[:]


def _outputs(message: Any, source: random.Random) -> None:
    message.outputs.add(name="count")
    message.outputs.add(name=source.choice(("count", "sum", *TEXTS)))


def _parameters(message: Any, source: random.Random) -> None:
    name, kind, value = source.choice(
        (
            ("priority", "int64_param", -1),
            ("priority", "string_param", "1"),
            ("timeout", "string_param", "1"),
            ("triton_anything", "int64_param", 1),
            ("headrace_amount", "double_param", float("nan")),
            ("headrace_currency", "string_param", "euro"),
            ("headrace_entity", "string_param", "e" * 257),
            ("mine", "uint64_param", 1),
        )
    )
    setattr(message.parameters[name], kind, value)


def _shared_memory(message: Any, _: random.Random) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"


def _model(message: Any, source: random.Random) -> None:
    message.model_name = source.choice([text for text in TEXTS if text != "toy"])


def _version(message: Any, source: random.Random) -> None:
    message.model_version = source.choice(("0", "2", "1" * 5000, "-1", "1.0", "١", "x" * 10_000, "\0", " 1"))


def _large(message: Any, source: random.Random) -> None:
    text = "x" * source.choice((10_000, 1_000_000))
    match source.randrange(3):
        case 0:
            message.inputs[0].name = text
        case 1:
            message.model_name = text
        case _:
            message.outputs.add(name=text)


def _changed(source: random.Random) -> Sent:
    message = mutated(good(source), source)
    return Sent(INFER, message.SerializeToString(), REFUSED | RIGHT)


def _unreadable(source: random.Random) -> Sent:
    while True:
        data = source.choice((source.randbytes(source.randint(1, 60)), good(source).SerializeToString()[:-1]))
        try:
            service_pb2.ModelInferRequest.FromString(data)
        except DecodeError:
            return Sent(INFER, data, UNREADABLE)


def _metadata(source: random.Random) -> Sent:
    """A good request: whatever a caller says about its trace, it is answered."""
    wrong = (
        ("traceparent", source.choice(("", "00-", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "z" * 55, "-" * 3000))),
        ("tracestate", source.choice(("=", "a=b," * 500, "x" * 600))),
        ("x-noise-bin", source.randbytes(source.randint(0, 200))),
    )
    return Sent(INFER, good(source).SerializeToString(), RIGHT, wrong)


def _payments(source: random.Random) -> Sent:
    asked = risk_pb2.ScoreBatchRequest(model="toy", payments=[payment(2, 1)])
    return Sent("/headrace.v1.RiskService/ScoreBatch", mutated(asked, source).SerializeToString(), REFUSED)


def _others(source: random.Random) -> Sent:
    text = source.choice([text[:1000] for text in TEXTS if text])
    name, message, ends = source.choice(
        (
            ("ModelMetadata", service_pb2.ModelMetadataRequest(name=text), UNKNOWN_MODEL),
            ("ModelConfig", service_pb2.ModelConfigRequest(name="toy", version="x"), INVALID),
            ("ModelReady", service_pb2.ModelReadyRequest(name="toy", version="x"), INVALID),
            ("NoSuchMethod", service_pb2.ModelReadyRequest(name=text), UNOFFERED),
        )
    )
    return Sent(OIP + name, message.SerializeToString(), ends)


KINDS: Final[dict[str, Callable[[random.Random], Sent]]] = {
    "changed": _changed,
    "unreadable": _unreadable,
    "shape": _infer(_shape, INVALID),
    "bytes": _infer(_bytes, INVALID),
    "values": _infer(_values, INVALID),
    "contents": _infer(_contents, INVALID),
    "names": _infer(_names, INVALID),
    "outputs": _infer(_outputs, INVALID),
    "parameters": _infer(_parameters, INVALID),
    "shared memory": _infer(_shared_memory, UNOFFERED),
    "model": _infer(_model, UNKNOWN_MODEL),
    "version": _infer(_version, INVALID | UNKNOWN_MODEL),
    "large": _infer(_large, INVALID | UNKNOWN_MODEL),
    "metadata": _metadata,
    "payments": _payments,
    "other calls": _others,
}


def make(seed: int) -> tuple[str, Sent]:
    """The kinds take turns, the one that can be anything comes every other time."""
    source = random.Random(seed)
    kind = "changed" if seed % 2 else list(KINDS)[seed // 2 % len(KINDS)]
    return kind, KINDS[kind](source)
