"""The response: raw bytes, one entry per output asked for, in the caller's order, and what an audit wants to know.

What responses have in common is made once and copied: to build it anew, field by field, costs half as much again.
"""

from __future__ import annotations

from typing import Final

from tritonclient.grpc import service_pb2

from headrace.core.inference import Answer, Inference
from headrace.core.tensors import ModelSpec
from headrace.gateway.codec.classification import ranked
from headrace.gateway.codec.strings import written

MAX_HEADS: Final = 1024
"""Heads that are remembered, of some hundred bytes each: rows times outputs asked for, times versions."""

Key = tuple[int, int, tuple[int, ...], str]


class Heads:
    """What responses begin with: the model, the outputs' names and shapes, the version's digest, the path."""

    def __init__(self) -> None:
        self._made: dict[Key, tuple[ModelSpec, service_pb2.ModelInferResponse]] = {}

    def of(self, spec: ModelSpec, rows: int, outputs: tuple[int, ...], path: str) -> service_pb2.ModelInferResponse:
        """To be copied, never to be changed."""
        # By identity: to hash a spec takes longer than to build a response. It is kept, so no other can take its place.
        key = (id(spec), rows, outputs, path)
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= MAX_HEADS:
                self._made.clear()
            found = self._made[key] = spec, _head(spec, rows, outputs, path)
        return found[1]


_heads: Final = Heads()


def encode(inference: Inference, answer: Answer) -> service_pb2.ModelInferResponse:
    """Raises: BrokenContract for a string that its spec does not allow."""
    response = service_pb2.ModelInferResponse()
    response.CopyFrom(_heads.of(inference.spec, inference.rows, inference.outputs, answer.path))
    if inference.id:
        response.id = inference.id
    if inference.classes or inference.spec.answers_strings:
        _fill(response, inference, answer)
    else:
        columns = answer.columns
        response.raw_output_contents.extend([columns[position] for position in inference.outputs])
    parameters = response.parameters
    parameters["headrace_batch_id"].string_param = answer.hex_id
    parameters["headrace_batch_rows"].int64_param = answer.batch_rows
    parameters["headrace_queue_us"].int64_param = answer.queue_us
    for axis, dropped in inference.truncated.items():
        parameters[f"headrace_truncated_{axis}"].int64_param = dropped
    return response


def _head(spec: ModelSpec, rows: int, outputs: tuple[int, ...], path: str) -> service_pb2.ModelInferResponse:
    head = service_pb2.ModelInferResponse(model_name=spec.name, model_version=spec.version)
    for position in outputs:
        tensor = spec.answers[position]
        head.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=(rows, *tensor.dims))
    head.parameters["headrace_version_digest"].string_param = spec.digest
    head.parameters["headrace_path"].string_param = path
    return head


def _fill(response: service_pb2.ModelInferResponse, inference: Inference, answer: Answer) -> None:
    """Outputs that are not their column: strings, and those told as classes."""
    classes = inference.classes or (0,) * len(inference.outputs)
    for output, position, most in zip(response.outputs, inference.outputs, classes, strict=True):
        tensor, column = inference.spec.answers[position], answer.columns[position]
        if most:
            output.datatype, output.shape[:] = "BYTES", (inference.rows, most)
            column = ranked(column, tensor, most)
        elif tensor.datatype == "BYTES":
            column = written(column, tensor)
        response.raw_output_contents.append(column)
