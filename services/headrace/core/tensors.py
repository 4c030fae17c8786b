"""The protocol's datatypes and the core's view of a model: what goes in, what comes out, what is ragged.

Read by every room; built from control's wire (gateway) or from spec.yaml (replica). Holds no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

DATATYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype("u1"),
}
"""Open Inference Protocol name → numpy dtype, little-endian as the wire is.

numpy has no bfloat16: BF16 is the upper half of an FP32, as bits. BYTES are the bytes of strings of a declared width.
"""
LENGTH_BYTES: Final = 4
"""In front of each string: its length, little-endian, as on the protocol's own wire."""
MAX_STRING: Final = 65_536
"""What a spec may declare as its longest string: every string takes that much memory, however short it is."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A ragged axis: tensors that share it have the same length in a row."""

    name: str
    cap: int
    """Longer rows keep their newest `cap` entries."""
    required: bool = False
    """A row of length 0 is refused."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model, for one row (no batch dimension)."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    """-1 first where the tensor is ragged; every other dimension is fixed."""
    axis: str | None = None
    finite: bool = False
    minimum: int | None = None
    ordered: bool = False
    optional: bool = False
    """An input that a caller may leave out: it is zeros then."""
    labels: tuple[str, ...] = ()
    """What the entries of an output or an extra are called."""
    costs_rows: int = 0
    """As many rows as an extra costs, for each row that asks for it."""
    max_bytes: int = 0
    """Of BYTES: the longest string. Every string of a column is as wide as one of these, and zeros behind its end."""

    @cached_property
    def dtype(self) -> np.dtype[np.generic]:
        return DATATYPES[self.datatype]

    @cached_property
    def entry_dims(self) -> tuple[int, ...]:
        """Dimensions of one entry: of one event where ragged, of the row elsewhere."""
        return self.dims[1:] if self.axis else self.dims

    @cached_property
    def element_bytes(self) -> int:
        """What one number, or one string, takes in a column."""
        return LENGTH_BYTES + self.max_bytes if self.datatype == "BYTES" else self.dtype.itemsize

    @cached_property
    def entry_bytes(self) -> int:
        return prod(self.entry_dims) * self.element_bytes

    @cached_property
    def kind(self) -> str:
        """Numpy's letter for what its values are: f, i, u, b; S for strings."""
        return {"BF16": "f", "BYTES": "S"}.get(self.datatype, self.dtype.kind)

    def numbers(self, column: bytes) -> npt.NDArray[Any]:
        """The values of a column, flat; those of BF16 as the FP32 that they are the upper half of."""
        values = np.frombuffer(column, self.dtype)
        return (values.astype("<u4") << 16).view("<f4") if self.datatype == "BF16" else values

    @property
    def checked(self) -> bool:
        return self.finite or self.ordered or self.minimum is not None


@dataclass(frozen=True, slots=True)
class Signal:
    """What a model's outputs `p` and `score` say about a payment."""

    name: str
    calibration_version: str
    """Of the map from raw output to `p` and `score`."""


@dataclass(frozen=True)
class ModelSpec:
    """What one model version takes and gives, and how much of it at once."""

    name: str
    version: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...] = ()
    max_rows: int = 64
    max_tokens: int = 8192
    """Events a batch may hold, summed over the axes; a model without axes counts one token a row."""
    platform: str = "pytorch"
    signal: Signal | None = None
    """None: its answer is no signal, and RiskService does not ask it."""
    extras: tuple[TensorSpec, ...] = ()
    """Outputs for the requests that ask for them by name."""

    @cached_property
    def extras_rows(self) -> int:
        """As many rows as one that asks for extras costs on top of itself: all of them are computed at once."""
        return sum(tensor.costs_rows for tensor in self.extras)

    @cached_property
    def input_index(self) -> dict[str, int]:
        return {tensor.name: position for position, tensor in enumerate(self.inputs)}

    @cached_property
    def answers(self) -> tuple[TensorSpec, ...]:
        """Everything that can be asked for: the outputs, then the extras."""
        return self.outputs + self.extras

    @cached_property
    def answers_strings(self) -> bool:
        return any(tensor.datatype == "BYTES" for tensor in self.answers)

    @cached_property
    def output_index(self) -> dict[str, int]:
        """Name → position in `answers`."""
        return {tensor.name: position for position, tensor in enumerate(self.answers)}

    @cached_property
    def carried(self) -> tuple[tuple[int, int], ...]:
        """(input, output) positions of what goes from one answer of a sequence into its next request.

        An input that may be left out and an output are one state when name, datatype and dims are the same.
        """
        outputs = {(tensor.name, tensor.datatype, tensor.dims): out for out, tensor in enumerate(self.outputs)}
        keys = ((tensor.name, tensor.datatype, tensor.dims) if tensor.optional else None for tensor in self.inputs)
        return tuple((into, outputs[key]) for into, key in enumerate(keys) if key in outputs)

    @cached_property
    def axis_index(self) -> dict[str, int]:
        return {axis.name: position for position, axis in enumerate(self.axes)}

    @cached_property
    def input_shapes(self) -> tuple[object, ...]:
        """What two versions must agree in to be asked the same columns, by input."""
        return tuple(
            (tensor.name, tensor.datatype, tensor.dims, tensor.axis, tensor.max_bytes) for tensor in self.inputs
        )

    @cached_property
    def input_axes(self) -> tuple[int, ...]:
        """For each input the position of its axis, or -1."""
        return tuple(self.axis_index[t.axis] if t.axis else -1 for t in self.inputs)

    @cached_property
    def checked_inputs(self) -> tuple[int, ...]:
        """Positions of the inputs whose values are checked before they may join a batch."""
        return tuple(i for i, tensor in enumerate(self.inputs) if tensor.checked)
