"""Batches made of golden rows: other company, other lengths, no events at all. For the checks; no caller's row is here.

Lengths and values stay what the spec allows, so that whatever a module does with them counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from headrace.serving.runner import Unpacked
from headrace.v1 import replica_pb2
from headrace_models import spec as disk
from headrace_models.consistency import row_tokens


def joined(batches: Iterable[Unpacked]) -> Unpacked:
    """The rows of the first, then those of the second."""
    parts = list(batches)
    return Unpacked(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        {name: np.concatenate([part.lengths[name] for part in parts]) for name in parts[0].lengths},
        sum(part.rows for part in parts),
        None if all(part.wants_extras is None for part in parts) else np.concatenate([_wanted(part) for part in parts]),
    )


def asking(batch: Unpacked, rows: Iterable[int]) -> Unpacked:
    """The same rows, of which these ask for the model's extras."""
    wanted = np.zeros(batch.rows, np.bool_)
    wanted[list(rows)] = True
    return replace(batch, wants_extras=wanted)


def _wanted(batch: Unpacked) -> npt.NDArray[np.bool_]:
    return np.zeros(batch.rows, np.bool_) if batch.wants_extras is None else batch.wants_extras


def stretched(batch: Unpacked, spec: disk.ModelSpec, lengths: Mapping[str, int], rows: int) -> Unpacked:
    """Rows of these lengths, of the batch's own values over and over: they stay values that the spec allows."""
    columns = {}
    for tensor in spec.inputs:
        values = batch.columns[tensor.name]
        if tensor.axis is None:
            columns[tensor.name] = np.resize(values, (rows, *values.shape[1:]))
            continue
        each = np.resize(values, (rows, lengths[tensor.axis], *values.shape[1:]))
        each = np.sort(each, axis=1) if tensor.ordered else each
        columns[tensor.name] = each.reshape(-1, *values.shape[1:])
    return Unpacked(columns, {name: np.full(rows, length, np.int64) for name, length in lengths.items()}, rows)


def lengths_within(spec: disk.ModelSpec, tokens: int) -> dict[str, int]:
    """The lengths of a row of so many tokens, each axis in proportion to its cap."""
    longest = row_tokens(spec)
    return {a.name: max(int(a.required), a.cap * min(tokens, longest) // longest) for a in spec.axes}


def emptied(batch: Unpacked, spec: disk.ModelSpec, axes: Iterable[str]) -> Unpacked:
    """The same rows without a single event on these axes."""
    gone = set(axes)
    return Unpacked(
        {t.name: batch.columns[t.name][: 0 if t.axis in gone else None] for t in spec.inputs},
        {name: lengths * (name not in gone) for name, lengths in batch.lengths.items()},
        batch.rows,
        batch.wants_extras,
    )


def fits(batch: Unpacked, spec: disk.ModelSpec) -> bool:
    """Whether a gateway would make such a batch."""
    return batch.rows <= spec.max_rows and tokens(batch) <= spec.max_tokens


def tokens(batch: Unpacked) -> int:
    return sum(int(lengths.sum()) for lengths in batch.lengths.values()) if batch.lengths else batch.rows


def packed(batch: Unpacked, spec: disk.ModelSpec) -> replica_pb2.PackedBatch:
    """As it comes over the wire."""
    return replica_pb2.PackedBatch(
        rows=batch.rows,
        columns=[batch.columns[tensor.name].tobytes() for tensor in spec.inputs],
        lengths=[batch.lengths[axis.name].astype("<i4").tobytes() for axis in spec.axes],
        remaining_s=np.full(batch.rows, np.inf, "<f8").tobytes(),
        wants_extras=b"" if batch.wants_extras is None else batch.wants_extras.tobytes(),
    )
