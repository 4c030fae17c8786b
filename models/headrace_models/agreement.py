"""How far two answers may be from each other, and how far they are. Golden rows and the laws of a batch use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace_models.schema import TensorSpec
from headrace_models.values import numbers

Arrays = Mapping[str, npt.NDArray[Any]]

ROUNDING: Final = {"BF16": 8e-3, "FP16": 1e-3, "FP32": 1e-5, "FP64": 1e-5}
"""A sum in another order moves a float by this much, of its own size or of 1, whichever is larger."""
ROUNDING_ON_A_GPU: Final = 5e-3
"""Kernels are chosen by the batch's shape there, and differ from the CPU's the golden rows were made on."""


class Distance(NamedTuple):
    """How far one output is from what it should be, at its worst element."""

    output: str
    worst: float
    """Relative to the element where that is larger than 1; NaN where one of the two is none or infinite."""
    tolerance: float
    row: int

    @property
    def within(self) -> bool:
        return self.worst <= self.tolerance


def tolerance(tensor: TensorSpec, device: str) -> float:
    """Integers are exact unless the spec says otherwise: a class or a count that is off by one is wrong."""
    rounding = ROUNDING.get(tensor.datatype, 0.0)
    declared = rounding if tensor.tolerance is None else tensor.tolerance
    return max(declared, ROUNDING_ON_A_GPU) if rounding and device != "cpu" else declared


def furthest(tensors: Sequence[TensorSpec], found: Arrays, expected: Arrays, device: str) -> Distance:
    """The output that is worst off: one beyond its tolerance first, else the furthest."""
    distances = [
        _distance(tensor, found[tensor.name], expected[tensor.name], tolerance(tensor, device)) for tensor in tensors
    ]
    return worst_of(distances)


def worst_of(distances: Sequence[Distance]) -> Distance:
    return min(distances, key=lambda distance: (distance.within, -distance.worst))


def _distance(tensor: TensorSpec, found: npt.NDArray[Any], expected: npt.NDArray[Any], allowed: float) -> Distance:
    found, expected = numbers(found, tensor.datatype), numbers(expected, tensor.datatype)
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(found.astype(np.float64) - expected) / np.maximum(1, np.abs(expected.astype(np.float64)))
    if found.dtype.kind != "f":
        # Exact, where a double is not: 64-bit integers differ by at least 1 or not at all.
        away = np.where(found == expected, 0, np.maximum(1, np.abs(found.astype(np.float64) - expected)))
    per_row = away.reshape(len(away), -1).max(1, initial=0)
    row = int(np.argmax(np.where(np.isnan(per_row), np.inf, per_row))) if len(per_row) else 0
    return Distance(tensor.name, float(per_row.max(initial=0)), allowed, row)
