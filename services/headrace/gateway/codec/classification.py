"""The classification extension: of an output its highest values, as text with their places and labels.

Source: Triton's server, src/classification.cc and src/grpc/grpc_utils.cc; of equal values it tells any first, we that
with the lowest index.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np

from headrace.core.tensors import LENGTH_BYTES, TensorSpec
from headrace.errors import InvalidInference

MAX_ELEMENTS: Final = 1_000_000
"""Of one row. Source: src/classification.cc."""
INTEGERS: Final = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
FLOATS: Final = frozenset({"FP32", "FP64"})


def wanted(asked: Any, tensor: TensorSpec) -> int:
    """How many classes a requested output wants, no more than there are; 0 = it wants the tensor.

    Raises: InvalidInference.
    """
    if "classification" not in asked.parameters:
        return 0
    parameter = asked.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidInference("invalid value type for 'classification' parameter, expected int64_param")
    if parameter.int64_param <= 0:
        raise InvalidInference("invalid value for 'classification' parameter, expected >= 0")
    if tensor.datatype not in INTEGERS | FLOATS:
        raise InvalidInference(
            f"class result not available for output '{tensor.name}' due to unsupported type '{tensor.datatype}'"
        )
    elements = prod(tensor.dims)
    if elements > MAX_ELEMENTS:
        raise InvalidInference(
            f"class result not available for output '{tensor.name}': {elements} elements are more than {MAX_ELEMENTS}"
        )
    return int(min(parameter.int64_param, elements))


def ranked(column: bytes, tensor: TensorSpec, most: int) -> bytes:
    """BYTES `[rows, most]` as the protocol has them: of each row the highest values, "value:index[:label]"."""
    values = tensor.numbers(column).reshape(-1, prod(tensor.dims))
    last = values.shape[1] - 1
    # Backwards through a stable sort of the reversed row: highest first, and of equals the lowest index.
    places = last - np.argsort(values[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :most]
    highest = np.take_along_axis(values, places, axis=1)
    form = "%f" if tensor.datatype in FLOATS else "%d"
    labels = [f":{label}" for label in tensor.labels] or [""] * (last + 1)
    told = [
        f"{form % value}:{place}{labels[place]}".encode()
        for row, at in zip(highest.tolist(), places.tolist(), strict=True)
        for value, place in zip(row, at, strict=True)
    ]
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little") + text for text in told])
