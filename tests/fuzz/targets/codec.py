"""A request of the Open Inference Protocol, at the gateway's codec: refused by a sentence, or decoded right.

What is right is worked out here a second time, by numpy and from the protocol's words alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from tests.fuzz.targets.target import Target
from tritonclient.grpc import service_pb2

from headrace.core.batch import bad_rows
from headrace.core.inference import Answer, Inference
from headrace.core.tensors import Axis, ModelSpec, TensorSpec
from headrace.errors import InvalidInference, Unsupported
from headrace.gateway.codec import Decoder, asked, encode

SPEC: Final = ModelSpec(
    name="m",
    version="1",
    digest="",
    inputs=(
        TensorSpec("events", "FP32", (-1, 2), axis="events", finite=True),
        TensorSpec("at", "INT64", (-1,), axis="events", ordered=True),
        TensorSpec("seen", "UINT8", (-1, 3), axis="others"),
        TensorSpec("key", "INT64", (1,), minimum=0),
        TensorSpec("flag", "BOOL", (2,), optional=True),
        TensorSpec("small", "INT8", (2, 2), optional=True),
        TensorSpec("half", "FP16", (1,), optional=True),
        TensorSpec("wide", "UINT64", (1,), optional=True),
        TensorSpec("names", "BYTES", (-1,), axis="others", max_bytes=4),
        TensorSpec("words", "BYTES", (2,), optional=True, max_bytes=6),
    ),
    outputs=(TensorSpec("p", "FP32", (1,)), TensorSpec("score", "INT32", (2,))),
    axes=(Axis("events", 4, required=True), Axis("others", 3)),
    max_rows=8,
    extras=(TensorSpec("why", "FP64", (2,), costs_rows=3),),
)
CONTENTS: Final = {
    "FP16": "fp32_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "UINT64": "uint64_contents",
    "BYTES": "bytes_contents",
}
REFUSALS: Final = (InvalidInference, Unsupported)
"""INVALID_ARGUMENT and UNIMPLEMENTED: what a caller can be told of a request that is none."""


def arrays(rows: int, events: int, others: int, *, optional: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Columns of a good request."""
    rng = np.random.default_rng(rows)
    found: dict[str, np.ndarray[Any, Any]] = {
        "events": rng.random((rows, events, 2), np.float32),
        "at": np.tile(np.arange(events), (rows, 1)),
        "seen": rng.integers(0, 255, (rows, others, 3)).astype(np.uint8),
        "key": np.arange(rows)[:, None],
        "names": np.array([[b"n%d" % place for place in range(others)]] * rows, object).reshape(rows, others),
    }
    if optional:
        found["flag"] = rng.integers(0, 2, (rows, 2)).astype(np.bool_)
        found["small"] = rng.integers(-128, 127, (rows, 2, 2)).astype(np.int8)
        found["half"] = rng.random((rows, 1)).astype(np.float16)
        found["wide"] = np.full((rows, 1), 2**64 - 1, np.uint64)
        found["words"] = np.array([[b"", b"sixsix"]] * rows, object)
    return found


def good(columns: dict[str, np.ndarray[Any, Any]], *, typed: bool = False) -> Any:
    """A request of these columns, raw or in typed contents."""
    datatypes = {tensor.name: tensor.datatype for tensor in SPEC.inputs}
    message = service_pb2.ModelInferRequest(model_name="m", id="7")
    for name, values in columns.items():
        given = message.inputs.add(name=name, datatype=datatypes[name], shape=values.shape)
        if typed:
            getattr(given.contents, CONTENTS[given.datatype]).extend(values.ravel().tolist())
        else:
            message.raw_input_contents.append(_written(values.ravel()) if values.dtype == object else values.tobytes())
    return message


def _written(texts: Iterable[bytes]) -> bytes:
    """Strings as the protocol has them: each behind its length."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _read(data: bytes) -> list[bytes]:
    found = []
    while data:
        end = 4 + struct.unpack_from("<I", data)[0]
        found.append(data[4:end])
        assert len(data) >= end
        data = data[end:]
    return found


def _seeds() -> list[bytes]:
    found = [
        good(arrays(1, 3, 2, optional=False)),
        good(arrays(3, 6, 0, optional=True)),  # longer than the cap, and an axis without an entry
        good({n: v for n, v in arrays(2, 1, 3, optional=True).items() if n != "half"}, typed=True),
        good(dict(reversed(arrays(8, 4, 5, optional=True).items()))),
    ]
    found[1].outputs.add(name="score")
    found[1].outputs.add(name="why")
    parameters = found[0].parameters
    parameters["priority"].uint64_param = 1
    parameters["timeout"].int64_param = 1000
    parameters["headrace_entity"].string_param = "card"
    parameters["headrace_amount"].double_param = 1.5
    parameters["headrace_currency"].string_param = "EUR"
    parameters["sequence_id"].int64_param = 7
    return [message.SerializeToString() for message in found]


_WARM: Final = Decoder(SPEC)
"""It has met all requests before: what it remembers must change nothing."""


def check(data: bytes) -> None:
    try:
        request = service_pb2.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    first, again, anew = (_outcome(decoder, request) for decoder in (_WARM, _WARM, Decoder(SPEC)))
    if isinstance(first, str):
        assert first == again == anew
        return
    assert isinstance(again, Inference)
    assert isinstance(anew, Inference)
    assert first.columns == again.columns == anew.columns == columns_of(request)
    assert first.rows == request.inputs[0].shape[0]
    assert all(length <= axis.cap for length, axis in zip(first.lengths, SPEC.axes, strict=True))
    assert set(bad_rows(first)) <= set(range(first.rows))
    _check_answer(request, first)


def _outcome(decoder: Decoder, request: Any) -> Inference | str:
    try:
        return decoder.decode(request, 0.0, asked(request))
    except REFUSALS as refusal:
        return f"{type(refusal).__name__}: {refusal}"


def columns_of(request: Any) -> list[bytes]:
    """What the model must be given, by the protocol: bytes in the order of the spec, the newest of a long row."""
    raw = list(request.raw_input_contents)
    given = {tensor.name: (tensor, raw[place] if raw else None) for place, tensor in enumerate(request.inputs)}
    assert len(given) == len(request.inputs)
    rows, found = request.inputs[0].shape[0], []
    for tensor in SPEC.inputs:
        if tensor.name not in given:
            assert tensor.optional
            found.append(bytes(rows * tensor.entry_bytes))
            continue
        message, data = given[tensor.name]
        assert message.datatype == tensor.datatype
        if tensor.datatype == "BYTES":
            found.append(_strings(message, data, tensor))
            continue
        if data is None:
            data = np.array(list(getattr(message.contents, CONTENTS[tensor.datatype])), tensor.dtype).tobytes()
        values = np.frombuffer(data, tensor.dtype).reshape(tuple(message.shape))
        if tensor.axis is not None:
            cap = SPEC.axes[SPEC.axis_index[tensor.axis]].cap
            values = values[:, max(0, values.shape[1] - cap) :]
        found.append(values.tobytes())
    return found


def _strings(message: Any, data: bytes | None, tensor: TensorSpec) -> bytes:
    """The newest strings of each row, each behind its length and as wide as the longest may be."""
    texts = np.empty(int(np.prod(tuple(message.shape), dtype=object)), object)
    texts[:] = list(message.contents.bytes_contents) if data is None else _read(data)
    rows = texts.reshape(tuple(message.shape))
    if tensor.axis is not None:
        rows = rows[:, max(0, rows.shape[1] - SPEC.axes[SPEC.axis_index[tensor.axis]].cap) :]
    assert all(len(text) <= tensor.max_bytes for text in rows.ravel())
    return b"".join(_written([text]).ljust(tensor.element_bytes, b"\0") for text in rows.ravel())


def _check_answer(request: Any, inference: Inference) -> None:
    if any("classification" in output.parameters for output in request.outputs):
        return
    columns = [bytes([place]) * tensor.entry_bytes * inference.rows for place, tensor in enumerate(SPEC.answers)]
    response = encode(inference, Answer(columns, batch_id=1, batch_rows=inference.rows, queue_us=0))
    wanted = [output.name for output in request.outputs] or [tensor.name for tensor in SPEC.outputs]
    assert [output.name for output in response.outputs] == wanted
    assert list(response.raw_output_contents) == [columns[SPEC.output_index[name]] for name in wanted]
    assert response.id == request.id


ABOUT: Final = tuple(f"headrace.gateway.codec.{name}" for name in ("decoding", "complaints", "parameters", "strings"))
TARGET: Final = Target(_seeds(), check, ABOUT, service_pb2.ModelInferRequest)
