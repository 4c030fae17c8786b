"""A request as the core speaks of it: names, datatypes, shapes and byte sizes checked, the bytes kept as they are.

Values are checked a batch at a time, by `core.batch.pack`. Called by whoever serves an RPC, once per request.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tritonclient.grpc import service_pb2

from headrace.core.inference import Inference
from headrace.core.tensors import ModelSpec
from headrace.gateway.codec.complaints import fits, take_slowly
from headrace.gateway.codec.parameters import NOTHING, Asked
from headrace.gateway.codec.selection import Selected, selected
from headrace.gateway.codec.strings import laid_out

MAX_KNOWN: Final = 8192
"""Inputs' headers that are remembered: names times lengths, and a caller's inventions."""
MAX_HEADER: Final = 512
"""Bytes of one that is remembered: fields that nobody knows may make it as long as a message."""


class Header(NamedTuple):
    """What an input says of itself, checked against the spec."""

    position: int
    """In the spec's inputs."""
    axis: int
    """-1 = it is not ragged."""
    rows: int
    length: int
    data_bytes: int
    """-1 = strings, of whatever length."""


class Decoder:
    """Decodes the requests for one model version, and remembers what their inputs look like."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._known: dict[bytes, Header] = {}
        self._unnamed = Selected(tuple(range(len(spec.outputs))))

    def decode(self, request: service_pb2.ModelInferRequest, deadline: float, given: Asked = NOTHING) -> Inference:
        """One request as the core speaks of it; `deadline` is on the gateway's clock, seconds.

        Shapes: every input [n, *dims of one row]; inputs that share a ragged axis agree on its length.
        Raises: InvalidInference, naming the tensor and what was expected; Unsupported.
        """
        spec = self._spec
        columns, rows, lengths = self._take(request) or take_slowly(request, spec)
        truncated: dict[str, int] = {}
        for position, axis in enumerate(spec.axes):
            if lengths[position] > axis.cap:
                _keep_newest(columns, spec, position, rows, lengths[position])
                truncated[axis.name] = lengths[position] - axis.cap
                lengths[position] = axis.cap
        outputs, classes = selected(request, spec) if request.outputs else self._unnamed
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
            classes=classes,
            truncated=truncated,
            subjects=(given.subject,),
            compared=not request.model_version,
        )

    def _take(self, request: Any) -> tuple[list[bytes], int, list[int]] | None:
        """Columns in the order of the spec, rows, and the length of each axis, in one pass; None = something is wrong.

        The hot path: it only says no. What is wrong is worked out by `complaints`, with a sentence for each case; of
        strings it is told at once. Raises: InvalidInference.
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
            if header is None:
                return None
            if len(data) == header.data_bytes:
                column = data
            elif header.data_bytes < 0:
                column = laid_out(data, spec.inputs[header.position], spec, header.rows, header.length)
            else:
                return None
            rows = rows or header.rows
            if header.rows != rows:
                return None
            if (axis := header.axis) >= 0:
                if lengths[axis] not in (-1, header.length):
                    return None
                lengths[axis] = header.length
            seen |= 1 << header.position
            columns[header.position] = column
        return (columns, rows, lengths) if seen + 1 == 1 << len(inputs) else None

    def _learn(self, given: Any) -> Header | None:
        """What an input says of itself, remembered; None = it is not as it must be, or carries its data itself."""
        spec = self._spec
        position = spec.input_index.get(given.name, -1)
        if position < 0 or given.datatype != spec.inputs[position].datatype:
            return None
        tensor, axis, shape = spec.inputs[position], spec.input_axes[position], tuple(given.shape)
        if given.HasField("contents") or given.parameters or not shape or not fits(shape[1:], tensor):
            return None
        rows, length = shape[0], shape[1] if axis >= 0 else 1
        if not 0 < rows <= spec.max_rows or (axis >= 0 and not length and spec.axes[axis].required):
            return None
        data_bytes = -1 if tensor.datatype == "BYTES" else rows * length * tensor.entry_bytes
        header = Header(position, axis, rows, length, data_bytes)
        key = given.SerializeToString()
        if len(key) <= MAX_HEADER:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = header
        return header


def _timeout_us(request: service_pb2.ModelInferRequest) -> int:
    """Its `timeout` parameter, microseconds; 0 where it has none."""
    return request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0


def _keep_newest(columns: list[bytes], spec: ModelSpec, axis: int, rows: int, length: int) -> None:
    """Cut every column of an axis to its cap, from the front: histories are oldest first."""
    cap = spec.axes[axis].cap
    for position, tensor in enumerate(spec.inputs):
        if spec.input_axes[position] != axis or tensor.datatype == "BYTES":  # strings are cut as they are laid out
            continue
        column, row_bytes, kept = columns[position], length * tensor.entry_bytes, cap * tensor.entry_bytes
        ends = range(row_bytes, rows * row_bytes + 1, row_bytes)
        columns[position] = b"".join([column[end - kept : end] for end in ends])
