"""The same question to another version of a model: its columns in that version's order, within its caps. Pure.

Columns are shared, not copied, wherever the two versions agree: nearly always.
"""

from __future__ import annotations

from functools import lru_cache

from headrace.core.inference import Inference
from headrace.core.tensors import ModelSpec

Lengths = tuple[tuple[int, ...], ...]
"""For each row its length on every axis; one entry where all rows are alike."""


def adapted(inference: Inference, spec: ModelSpec, deadline: float) -> Inference | None:
    """What `spec`'s version is asked in its place until `deadline`; None = it wants an input that is not there.

    Inputs that it does not know are left out, optional ones that only it has are zeros, and histories longer than its
    caps keep their newest entries: as if its caller had asked it.
    """
    places = _places(inference.spec, spec)
    if places is None or inference.rows > spec.max_rows:
        return None
    columns, lengths = inference.columns, inference.row_lengths or (inference.lengths,)
    if places:
        columns = [
            columns[place] if place >= 0 else bytes(inference.rows * tensor.entry_bytes)
            for place, tensor in zip(places, spec.inputs, strict=True)
        ]
    if spec.axes != inference.spec.axes:
        columns = list(columns)
        lengths = _fit(columns, inference, spec)
    # Not `replace`, which takes three times as long.
    return Inference(
        spec=spec,
        columns=columns,
        rows=inference.rows,
        lengths=lengths[0],
        tokens=sum([max(1, sum(row)) for row in lengths]) * (1 if inference.row_lengths else inference.rows),
        deadline=deadline,
        priority=inference.priority,
        timeout_s=inference.timeout_s,
        id=inference.id,
        classes=inference.classes,
        truncated=inference.truncated,
        row_lengths=lengths if inference.row_lengths else None,
        subjects=inference.subjects,
        compared=inference.compared,
    )


@lru_cache(maxsize=256)
def _askable(given: tuple[object, ...], wanted: tuple[object, ...]) -> tuple[int, ...]:
    """For each wanted input its place among those given; -1 = it is not there."""
    return tuple(given.index(one) if one in given else -1 for one in wanted)


def _places(given: ModelSpec, wanted: ModelSpec) -> tuple[int, ...] | None:
    """Of each input among those given, -1 = it is not there. Empty: all are in their own. None: it can't be asked."""
    if given.input_shapes == wanted.input_shapes:
        return ()
    places = _askable(given.input_shapes, wanted.input_shapes)
    missing = [tensor for place, tensor in zip(places, wanted.inputs, strict=True) if place < 0]
    # One that is there in another shape was not left out: zeros in its place would be another question.
    return None if any(t.axis or not t.optional or t.name in given.input_index for t in missing) else places


def _fit(columns: list[bytes], inference: Inference, spec: ModelSpec) -> Lengths:
    """Cut each row of every ragged column to `spec`'s caps, from the front: histories are oldest first."""
    known = inference.spec.axis_index
    rows = inference.row_lengths or (inference.lengths,) * inference.rows
    full = [[row[known[axis.name]] if axis.name in known else 0 for axis in spec.axes] for row in rows]
    kept = [[min(length, axis.cap) for length, axis in zip(row, spec.axes, strict=True)] for row in full]
    for position, tensor in enumerate(spec.inputs):
        axis = spec.input_axes[position]
        if axis < 0 or full == kept:
            continue
        column, size, end, parts = columns[position], tensor.entry_bytes, 0, []
        for row, keeps in zip(full, kept, strict=True):
            end += row[axis] * size
            parts.append(column[end - keeps[axis] * size : end])
        columns[position] = b"".join(parts)
    return tuple(map(tuple, kept if inference.row_lengths else kept[:1]))
