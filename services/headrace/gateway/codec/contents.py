"""Typed contents: an input's values in the fields of InferTensorContents, as the raw bytes that they stand for.

Whoever can, sends raw bytes: a request of typed contents costs an object for each value. FP16 and BF16 by
`fp32_contents` are ours; Triton knows them as raw bytes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.core.tensors import LENGTH_BYTES, ModelSpec, TensorSpec
from headrace.errors import InvalidInference

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
    "FP16": "fp32_contents",
    "BF16": "fp32_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype → the field that carries it."""


def raw_bytes(given: Any, tensor: TensorSpec, spec: ModelSpec) -> bytes:
    """Typed contents as `raw_input_contents` would have them.

    Raises: InvalidInference when there are none or too many, some are in another datatype's field, or a value does not
    fit.
    """
    field = CONTENTS[tensor.datatype]
    values = getattr(given.contents, field)
    if not values and prod(given.shape):
        raise InvalidInference(
            f"unable to find data for input tensor '{tensor.name}' for model '{spec.name}' in request."
        )
    if other := next((one.name for one, _ in given.contents.ListFields() if one.name != field), None):
        raise InvalidInference(
            f"input '{tensor.name}' for model '{spec.name}' is {tensor.datatype}, which {field} carries, not {other}"
        )
    if tensor.datatype == "BYTES":
        return b"".join([len(text).to_bytes(LENGTH_BYTES, "little") + text for text in values])
    check_size(len(values) * tensor.dtype.itemsize, given, tensor, spec)  # before they become objects, one by one
    try:
        return _narrowed(values, tensor)
    except OverflowError as error:
        raise InvalidInference(
            f"input '{tensor.name}' for model '{spec.name}' has a value outside of {tensor.datatype}"
        ) from error


def check_size(size: int, given: Any, tensor: TensorSpec, spec: ModelSpec) -> None:
    """Raises: InvalidInference where the shape of an input announces another size, in bytes."""
    expected = prod(given.shape) * tensor.dtype.itemsize
    if size != expected:
        raise InvalidInference(
            f"input byte size mismatch for input '{tensor.name}' for model '{spec.name}'. "
            f"Expected {expected}, got {size}"
        )


def _narrowed(values: Sequence[Any], tensor: TensorSpec) -> bytes:
    """Raises: OverflowError."""
    if tensor.datatype not in ("FP16", "BF16"):
        return np.fromiter(values, tensor.dtype, len(values)).tobytes()
    singles = np.fromiter(values, "<f4", len(values))
    column = (bfloat16 if tensor.datatype == "BF16" else _half)(singles).tobytes()
    if np.any(np.isinf(tensor.numbers(column)) & np.isfinite(singles)):
        raise OverflowError
    return column


def _half(singles: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # looked for afterwards
        return singles.astype("<f2")


def bfloat16(singles: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16 of each, of two that are as near the even one; NaN stays NaN, and quiet."""
    bits = singles.view("<u4")
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))
    return (np.where(np.isnan(singles), bits | 0x400000, rounded) >> 16).astype("<u2")
