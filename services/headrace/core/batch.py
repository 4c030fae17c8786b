"""Packing riders into columns and handing the answer back by row. Bytes in, bytes out: no object per row.

Called once a batch by dispatch. The laws: split ∘ pack is the identity, and a bad row leaves without its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.core.demand import NONE, Demand
from headrace.core.inference import Inference
from headrace.core.records import BatchRecord
from headrace.core.rider import Rider
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import InvalidInference


@dataclass(slots=True)
class Batch:
    """Riders that travel together, in row order."""

    spec: ModelSpec
    riders: list[Rider]
    record: BatchRecord
    demand: Demand = NONE
    """What its lane asks of its replicas besides, as it leaves."""
    rows: int = field(init=False)
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self._count()

    def keep(self, riders: list[Rider]) -> None:
        """Go on with fewer riders."""
        self.riders = riders
        self._count()

    def drop_departed(self) -> None:
        """Leave behind whoever has been settled while the batch waited for a second try."""
        self.keep([rider for rider in self.riders if rider.outcome is None])

    @property
    def wants_extras(self) -> bool:
        """Somebody on board asks for what is only computed for those who do."""
        return any(rider.inference.wants_extras for rider in self.riders)

    @property
    def latest_deadline(self) -> float:
        return max((rider.inference.deadline for rider in self.riders), default=0.0)

    def _count(self) -> None:
        self.rows = sum(rider.inference.rows for rider in self.riders)
        self.tokens = sum(rider.inference.tokens for rider in self.riders)


@dataclass(frozen=True, slots=True)
class Packed:
    """The columns of a batch as they travel."""

    columns: list[bytes]
    lengths: list[npt.NDArray[np.int32]]
    """Per axis: int32[rows]."""


def pack(batch: Batch) -> Packed:
    """Join the riders' columns. A rider with a value its model refuses is settled and left behind.

    The values are looked at here, a whole column at once, because it costs a fraction of looking at each request.
    """
    if not batch.riders:  # they have all left
        return Packed([], [])
    packed = _join(batch.spec, [rider.inference for rider in batch.riders])
    if batch.spec.checked_inputs and (bad := _find_bad_rows(batch.spec, packed)):
        _refuse(batch, bad)
        if not batch.riders:
            return Packed([], [])
        packed = _join(batch.spec, [rider.inference for rider in batch.riders])
    return packed


def bad_rows(inference: Inference) -> dict[int, str]:
    """Row → what its model refuses in it: for a request that can lose rows before it becomes a rider."""
    return _find_bad_rows(inference.spec, _join(inference.spec, [inference]))


def row_values(batch: Batch, values: Sequence[float]) -> npt.NDArray[np.float64]:
    """One value a rider, repeated for each of its rows."""
    return np.repeat(np.asarray(values, np.float64), [rider.inference.rows for rider in batch.riders])


def split(spec: ModelSpec, columns: Sequence[bytes], first_row: int, rows: int) -> list[bytes]:
    """The part of every output column that belongs to the rider in `first_row`."""
    return [
        column[first_row * tensor.entry_bytes : (first_row + rows) * tensor.entry_bytes]
        for tensor, column in zip(spec.answers, columns, strict=False)  # extras are there if anybody asked
    ]


def _join(spec: ModelSpec, inferences: Sequence[Inference]) -> Packed:
    columns = [b"".join([i.columns[c] for i in inferences]) for c in range(len(spec.inputs))]
    lengths = []
    if spec.axes:
        per_rider = np.array([i.lengths for i in inferences], np.int32)
        per_row = np.repeat(per_rider, [i.rows for i in inferences], axis=0)
        if [i for i in inferences if i.row_lengths]:
            _overwrite_ragged(per_row, inferences)
        lengths = [np.ascontiguousarray(per_row[:, a]) for a in range(len(spec.axes))]
    return Packed(columns, lengths)


def _overwrite_ragged(per_row: npt.NDArray[np.int32], inferences: Sequence[Inference]) -> None:
    """Put the lengths of each row where a rider's rows differ."""
    row = 0
    for inference in inferences:
        if inference.row_lengths:
            per_row[row : row + inference.rows] = inference.row_lengths
        row += inference.rows


def _find_bad_rows(spec: ModelSpec, packed: Packed) -> dict[int, str]:
    """Row → what is wrong with it; the first complaint wins."""
    bad: dict[int, str] = {}
    for position in spec.checked_inputs:
        tensor = spec.inputs[position]
        values = tensor.numbers(packed.columns[position])
        axis = spec.input_axes[position]
        lengths = packed.lengths[axis] if axis >= 0 else None
        for entry, complaint in _complaints(tensor, values, lengths):
            row = entry if lengths is None else int(np.searchsorted(np.cumsum(lengths), entry, side="right"))
            bad.setdefault(row, complaint)
    return bad


def _complaints(
    tensor: TensorSpec, values: npt.NDArray[Any], lengths: npt.NDArray[np.int32] | None
) -> list[tuple[int, str]]:
    """(entry, complaint) pairs: an entry is an event of a ragged tensor, a row of a fixed one."""
    width = max(1, tensor.entry_bytes // tensor.element_bytes)
    found: list[tuple[int, str]] = []
    if tensor.finite and not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        found += [(int(e) // width, f"input '{tensor.name}' has a value that is not finite") for e in wrong]
    # Not `<`: the least of values of which one is NaN is NaN, and then those below have to be looked for.
    if tensor.minimum is not None and values.size and not values.min() >= tensor.minimum:
        wrong = np.flatnonzero(values < tensor.minimum)
        found += [(int(e) // width, f"input '{tensor.name}' has a value below {tensor.minimum}") for e in wrong]
    if tensor.ordered and lengths is not None:
        falls = values[1:] < values[:-1]
        starts = np.cumsum(lengths)
        falls[starts[(starts > 0) & (starts < len(values))] - 1] = False  # a row's first event follows another row's
        if falls.any():
            wrong = np.flatnonzero(falls) + 1
            found += [(int(e), f"input '{tensor.name}' is not in ascending order") for e in wrong]
    return found


def _refuse(batch: Batch, bad: dict[int, str]) -> None:
    kept: list[Rider] = []
    row = 0
    for rider in batch.riders:
        rows = range(row, row + rider.inference.rows)
        row = rows.stop
        complaint = next((bad[r] for r in rows if r in bad), None)
        if complaint is None:
            kept.append(rider)
        else:
            rider.settle(InvalidInference(f"{complaint} for model '{batch.spec.name}'"))
    batch.keep(kept)
