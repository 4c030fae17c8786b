"""Open Inference Protocol ⇄ core. The protocol's messages end here: nothing behind this file has seen one.

Checks names, datatypes, shapes and byte sizes, with Triton's sentences; values are checked a batch at a time,
by `core.batch.pack`. Called by the servicer, once in and once out per request.
"""

from __future__ import annotations

from math import isfinite, prod
from typing import Any, Final, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2

from headrace.core.inference import MAX_KEY, UNKNOWN, Answer, Inference, Subject
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import InvalidInference, Unsupported

CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Datatype → the field of InferTensorContents that may carry it. FP16 and BF16 exist only as raw bytes."""

OURS: Final = {
    "headrace_entity": "entity",
    "headrace_event_id": "event_id",
    "headrace_amount": "amount",
    "headrace_currency": "currency",
}
"""Request parameters that say what a request is about → the field of `Subject`."""
KEY: Final = "headrace_idempotency_key"
"""What makes retries get one answer. Never the protocol's id: clients use one for all they send."""
MAX_KNOWN: Final = 8192
"""Inputs' headers that are remembered, of some hundred bytes each: names times lengths, and a caller's inventions."""


class Asked(NamedTuple):
    """What a request's parameters say."""

    priority: int
    """0 = they name none."""
    subject: Subject
    idempotency_key: str = ""
    """Empty = it is no retry of anything, and nothing is kept for one."""


NOTHING: Final = Asked(0, UNKNOWN)


class Header(NamedTuple):
    """What an input says of itself, checked against the spec."""

    position: int
    """In the spec's inputs."""
    axis: int
    """-1 = it is not ragged."""
    rows: int
    length: int
    data_bytes: int


class Decoder:
    """Decodes the requests for one model version, and remembers what their inputs look like."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._known: dict[bytes, Header] = {}

    def decode(self, request: service_pb2.ModelInferRequest, deadline: float, given: Asked = NOTHING) -> Inference:
        """One request as the core speaks of it; `deadline` is on the gateway's clock, seconds.

        Shapes: every input [n, *dims of one row]; inputs that share a ragged axis agree on its length.
        Raises: InvalidInference, naming the tensor and what was expected; Unsupported.
        """
        spec = self._spec
        columns, rows, lengths = self._take(request) or _take_slowly(request, spec)
        truncated: dict[str, int] = {}
        for position, axis in enumerate(spec.axes):
            if lengths[position] > axis.cap:
                _keep_newest(columns, spec, position, rows, lengths[position])
                truncated[axis.name] = lengths[position] - axis.cap
                lengths[position] = axis.cap
        outputs = _outputs(request, spec)
        wants_extras = max(outputs, default=-1) >= len(spec.outputs)
        return Inference(
            spec=spec,
            columns=columns,
            rows=rows,
            lengths=tuple(lengths),
            tokens=rows * max(1, sum(lengths)) * (1 + spec.extras_rows * wants_extras),
            deadline=deadline,
            priority=given.priority,
            timeout_s=_timeout_us(request) / 1e6 if request.parameters else 0.0,
            id=request.id,
            outputs=outputs,
            wants_extras=wants_extras,
            truncated=truncated,
            subjects=(given.subject,),
            compared=not request.model_version,
        )

    def _take(self, request: Any) -> tuple[list[bytes], int, list[int]] | None:
        """Columns in the order of the spec, rows, and the length of each axis, in one pass; None = something is wrong.

        The hot path: it only says no. What is wrong is worked out by `_take_slowly`, with a sentence for each case.
        """
        spec, known = self._spec, self._known
        inputs, raw = request.inputs, request.raw_input_contents
        if len(inputs) != len(spec.inputs) or len(raw) != len(inputs):
            return None
        columns: list[bytes] = [b""] * len(inputs)
        lengths = [-1] * len(spec.axes)
        rows = seen = 0
        for given, data in zip(inputs, raw, strict=True):
            # Serialised again it is a key: one call to C, where five attributes would be asked one by one.
            header = known.get(given.SerializeToString()) or self._learn(given)
            if header is None or len(data) != header.data_bytes:
                return None
            rows = rows or header.rows
            if header.rows != rows:
                return None
            if (axis := header.axis) >= 0:
                if lengths[axis] not in (-1, header.length):
                    return None
                lengths[axis] = header.length
            seen |= 1 << header.position
            columns[header.position] = data
        return (columns, rows, lengths) if seen + 1 == 1 << len(inputs) else None

    def _learn(self, given: Any) -> Header | None:
        """What an input says of itself, remembered; None = it is not as it must be, or carries its data itself."""
        spec = self._spec
        position = spec.input_index.get(given.name, -1)
        if position < 0 or given.datatype != spec.inputs[position].datatype:
            return None
        tensor, axis, shape = spec.inputs[position], spec.input_axes[position], tuple(given.shape)
        if given.HasField("contents") or given.parameters or not shape or not _fits(shape[1:], tensor):
            return None
        rows, length = shape[0], shape[1] if axis >= 0 else 1
        if not 0 < rows <= spec.max_rows or (axis >= 0 and not length and spec.axes[axis].required):
            return None
        header = Header(position, axis, rows, length, rows * length * tensor.entry_bytes)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[given.SerializeToString()] = header
        return header


def _timeout_us(request: service_pb2.ModelInferRequest) -> int:
    """Its `timeout` parameter, microseconds; 0 where it has none."""
    return request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0


def encode(inference: Inference, answer: Answer) -> service_pb2.ModelInferResponse:
    """The response: raw bytes, one entry per output asked for, in the caller's order."""
    spec = inference.spec
    response = service_pb2.ModelInferResponse(model_name=spec.name, model_version=spec.version, id=inference.id)
    for position in inference.outputs:
        tensor = spec.answers[position]
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=(inference.rows, *tensor.dims))
        response.raw_output_contents.append(answer.columns[position])
    response.parameters["headrace_batch_rows"].int64_param = answer.batch_rows
    response.parameters["headrace_queue_us"].int64_param = answer.queue_us
    for axis, dropped in inference.truncated.items():
        response.parameters[f"headrace_truncated_{axis}"].int64_param = dropped
    return response


# In: what is not as most requests are ------------------------------------------------------------------------------


def _take_slowly(request: Any, spec: ModelSpec) -> tuple[list[bytes], int, list[int]]:
    """Typed contents, inputs left out, or something wrong. Raises: InvalidInference, Unsupported."""
    tensors, raws = _match(request, spec)
    rows = _rows(tensors, spec)
    lengths = _lengths(tensors, spec)
    columns = [
        bytes(rows * tensor.entry_bytes) if given is None else _data(given, raw, tensor, spec)
        for given, raw, tensor in zip(tensors, raws, spec.inputs, strict=True)
    ]
    return columns, rows, lengths


# In: names ------------------------------------------------------------------------------------------------------------


def _match(request: Any, spec: ModelSpec) -> tuple[list[Any], list[bytes | None]]:
    """The request's inputs in the order of the spec, each with its raw bytes or None (typed contents)."""
    raw = request.raw_input_contents
    found: list[Any] = [None] * len(spec.inputs)
    raws: list[bytes | None] = [None] * len(spec.inputs)
    for place, tensor in enumerate(request.inputs):
        position = spec.input_index.get(tensor.name)
        if position is None:
            raise InvalidInference(f"unexpected inference input '{tensor.name}' for model '{spec.name}'")
        if found[position] is not None:
            raise InvalidInference(f"input '{tensor.name}' already exists in request")
        if "shared_memory_region" in tensor.parameters:
            raise Unsupported(
                "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
            )
        found[position] = tensor
        raws[position] = raw[place] if place < len(raw) else None
    if any(given is None and not tensor.optional for given, tensor in zip(found, spec.inputs, strict=True)):
        _complain_of_missing(request, spec)
    if raw:
        _check_raw_count(request, spec)
    return found, raws


def _complain_of_missing(request: Any, spec: ModelSpec) -> None:
    given = [tensor.name for tensor in request.inputs]
    required = [tensor.name for tensor in spec.inputs if not tensor.optional]
    missing = [name for name in required if name not in given]
    most = len(spec.inputs)
    expected = f"{most} inputs" if len(required) == most else f"number of inputs between {len(required)} and {most}"
    raise InvalidInference(
        f"expected {expected} but got {len(given)} inputs for model '{spec.name}'. "
        f"Got input(s) [{_quoted(given)}], but missing required input(s) [{_quoted(missing)}]. "
        "Please provide all required input(s)."
    )


def _check_raw_count(request: Any, spec: ModelSpec) -> None:
    raw = request.raw_input_contents
    for place, tensor in enumerate(request.inputs):
        if place >= len(raw):
            raise InvalidInference(
                f"unable to find data for input tensor '{tensor.name}' for model '{spec.name}' in request."
            )
        if tensor.HasField("contents") and tensor.contents.ByteSize():
            raise InvalidInference(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{spec.name}'"
            )
    if len(raw) > len(request.inputs):
        raise InvalidInference(
            f"expected {len(request.inputs)} raw_input_contents for model '{spec.name}', got {len(raw)}"
        )


def _quoted(names: list[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


# In: shapes -----------------------------------------------------------------------------------------------------------


def _rows(tensors: list[Any], spec: ModelSpec) -> int:
    """The batch dimension all inputs agree on."""
    rows = -1
    for given, tensor in zip(tensors, spec.inputs, strict=True):
        if given is None:  # optional, and left out
            continue
        if given.datatype != tensor.datatype:
            raise InvalidInference(
                f"inference input '{tensor.name}' data-type is '{given.datatype}', "
                f"but model '{spec.name}' expects '{tensor.datatype}'"
            )
        shape = given.shape
        if not shape:
            raise InvalidInference(
                f"input '{tensor.name}' has no shape but model requires batch dimension for '{spec.name}'"
            )
        if not _fits(tuple(shape)[1:], tensor):
            raise InvalidInference(
                f"unexpected shape for input '{tensor.name}' for model '{spec.name}'. "
                f"Expected {_shape((-1, *tensor.dims))}, got {_shape(shape)}."
            )
        if rows not in (-1, shape[0]):
            raise InvalidInference(f"input '{tensor.name}' batch size does not match other inputs for '{spec.name}'")
        rows = shape[0]
    if rows > spec.max_rows:
        raise InvalidInference(f"inference request batch-size must be <= {spec.max_rows} for '{spec.name}'")
    if rows < 1:
        raise InvalidInference(f"inference request batch-size must be >= 1 for '{spec.name}'")
    return rows


def _fits(shape: tuple[int, ...], tensor: TensorSpec) -> bool:
    if len(shape) != len(tensor.dims):
        return False
    if tensor.axis:
        return shape[0] >= 0 and shape[1:] == tensor.dims[1:]
    return shape == tensor.dims


def _lengths(tensors: list[Any], spec: ModelSpec) -> list[int]:
    """Per axis, the length its tensors agree on."""
    lengths = [-1] * len(spec.axes)
    for given, position, tensor in zip(tensors, spec.input_axes, spec.inputs, strict=True):
        if position < 0:
            continue
        length = given.shape[1]
        axis = spec.axes[position]
        if lengths[position] not in (-1, length):
            raise InvalidInference(
                f"input '{tensor.name}' has {length} entries, but other inputs of axis '{axis.name}' "
                f"have {lengths[position]} for model '{spec.name}'"
            )
        if not length and axis.required:
            raise InvalidInference(
                f"input '{tensor.name}' is empty, but axis '{axis.name}' of model '{spec.name}' needs an entry"
            )
        lengths[position] = length
    return lengths


def _shape(dims: Any) -> str:
    return "[" + ",".join(str(d) for d in dims) + "]"


# In: bytes ------------------------------------------------------------------------------------------------------------


def _data(given: Any, raw: bytes | None, tensor: TensorSpec, spec: ModelSpec) -> bytes:
    data = _typed(given, tensor, spec) if raw is None else raw
    expected = prod(given.shape) * tensor.dtype.itemsize
    if len(data) != expected:
        raise InvalidInference(
            f"input byte size mismatch for input '{tensor.name}' for model '{spec.name}'. "
            f"Expected {expected}, got {len(data)}"
        )
    return data


def _typed(given: Any, tensor: TensorSpec, spec: ModelSpec) -> bytes:
    """Typed contents as raw bytes. Raises: InvalidInference when there are none, or a value does not fit."""
    field = CONTENTS.get(tensor.datatype)
    values = getattr(given.contents, field) if field else ()
    if not values and prod(given.shape):
        raise InvalidInference(
            f"unable to find data for input tensor '{tensor.name}' for model '{spec.name}' in request."
        )
    try:
        return np.array(values, tensor.dtype).tobytes()
    except OverflowError as error:
        raise InvalidInference(
            f"input '{tensor.name}' for model '{spec.name}' has a value outside of {tensor.datatype}"
        ) from error


def _keep_newest(columns: list[bytes], spec: ModelSpec, axis: int, rows: int, length: int) -> None:
    """Cut every column of an axis to its cap, from the front: histories are oldest first."""
    cap = spec.axes[axis].cap
    for position, tensor in enumerate(spec.inputs):
        if spec.input_axes[position] != axis:
            continue
        column, row_bytes, kept = columns[position], length * tensor.entry_bytes, cap * tensor.entry_bytes
        ends = range(row_bytes, rows * row_bytes + 1, row_bytes)
        columns[position] = b"".join([column[end - kept : end] for end in ends])


# In: the rest ---------------------------------------------------------------------------------------------------------


def _outputs(request: Any, spec: ModelSpec) -> tuple[int, ...]:
    if not request.outputs:
        return tuple(range(len(spec.outputs)))
    positions: list[int] = []
    for asked in request.outputs:
        position = spec.output_index.get(asked.name)
        if position is None:
            raise InvalidInference(f"unexpected inference output '{asked.name}' for model '{spec.name}'")
        if position in positions:
            raise InvalidInference(f"output '{asked.name}' already exists in request")
        if "classification" in asked.parameters:
            raise Unsupported("the classification extension is not offered by this server")
        positions.append(position)
    return tuple(positions)


def asked(request: Any) -> Asked:
    """Its parameters, all checked. Raises: InvalidInference, with Triton's sentences for what Triton knows."""
    if not request.parameters:
        return NOTHING
    priority = 0
    ours: dict[str, Any] = {}
    for name, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if name == "priority":
            if kind not in ("uint64_param", "int64_param") or (priority := getattr(value, kind)) < 0:
                raise InvalidInference("invalid value for 'priority', expected value >= 0.")
        elif name == "timeout":
            if kind != "int64_param":
                raise InvalidInference("invalid value type for 'timeout' parameter, expected int64_param.")
        elif name in OURS or name == KEY:
            ours[OURS.get(name, name)] = _of_ours(name, kind, value)
        elif name.startswith("triton_") and name != "triton_enable_empty_final_response":
            raise InvalidInference(f"parameter keys starting with 'triton_' are reserved for Triton usage: '{name}'")
        elif kind == "uint64_param":
            raise InvalidInference(
                f"invalid value type for '{name}' parameter, expected int64_param, bool_param, or string_param."
            )
    key = ours.pop(KEY, "")
    return Asked(priority, Subject(**ours) if ours else UNKNOWN, key)


def _of_ours(name: str, kind: str | None, value: Any) -> str | float:
    if name == "headrace_amount":
        amount = getattr(value, kind) if kind in ("double_param", "int64_param") else float("nan")
        if not isfinite(amount):
            raise InvalidInference(f"invalid value for '{name}' parameter, expected a finite double_param.")
        return float(amount)
    if kind != "string_param":
        raise InvalidInference(f"invalid value type for '{name}' parameter, expected string_param.")
    text = str(value.string_param)
    if len(text) > MAX_KEY:
        raise InvalidInference(f"invalid value for '{name}' parameter, expected at most {MAX_KEY} characters.")
    if name == KEY and not text:
        raise InvalidInference(f"invalid value for '{name}' parameter, expected a key of 1 to {MAX_KEY} characters.")
    if name == "headrace_currency" and not (len(text) == 3 and text.isascii() and text.isalpha()):
        raise InvalidInference(f"invalid value for '{name}' parameter, expected an ISO 4217 code of three letters.")
    return text
