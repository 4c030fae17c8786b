"""Everything that may be slow the first time happens here, before a replica says it is ready."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from headrace.errors import BrokenContract, StartupError
from headrace.serving import rows as made
from headrace.serving.runner import Runner, Unpacked
from headrace_models import spec as disk

REPEATS: Final = 3
"""The first run compiles and allocates, the second settles, the third shows that it has."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """One shape of the spec, and how long each of its runs took."""

    shape: disk.WarmUp
    runs_s: tuple[float, ...]


def warm_up(runner: Runner, spec: disk.ModelSpec) -> list[Warmed]:
    """Record what is replayed, then run every warm-up shape of the spec on zeros.

    Where there are extras, rows of each shape ask for them once: the first explained request is not slow either.
    Raises: StartupError when one fails or is answered misshapen.
    """
    try:
        runner.record()
    except Exception as error:  # a module is foreign code, and the device's memory may be taken
        raise StartupError(f"{spec.name}/{spec.version}: cannot be recorded: {disk.one_line(error)}") from error
    return [_warmed(runner, spec, shape) for shape in spec.warmup]


def zeros(spec: disk.ModelSpec, shape: disk.WarmUp) -> Unpacked:
    """A batch of this shape."""
    lengths = {axis.name: np.full(shape.rows, shape.length(axis), np.int64) for axis in spec.axes}
    columns = {}
    for tensor in spec.inputs:
        entries, dims = (
            (int(lengths[tensor.axis].sum()), tensor.array_dims[1:]) if tensor.axis else (shape.rows, tensor.array_dims)
        )
        columns[tensor.name] = np.zeros((entries, *dims), disk.DATATYPES[tensor.datatype])
    return Unpacked(columns, lengths, shape.rows)


def _warmed(runner: Runner, spec: disk.ModelSpec, shape: disk.WarmUp) -> Warmed:
    runs_s = tuple(_timed(runner, spec, zeros(spec, shape)) for _ in range(REPEATS))
    if spec.extras:
        batch = zeros(spec, shape)
        _timed(runner, spec, made.asking(batch, range(_may_ask(spec, batch))))
    return Warmed(shape, runs_s)


def _may_ask(spec: disk.ModelSpec, batch: Unpacked) -> int:
    """How many rows of a batch may ask for extras before it is as large as a gateway makes one; never none."""
    tokens = max(batch.rows, made.tokens(batch))
    return min(batch.rows, max(1, (spec.max_tokens - tokens) * batch.rows // (tokens * spec.extras_rows)))


def _timed(runner: Runner, spec: disk.ModelSpec, batch: Unpacked) -> float:
    begun = time.perf_counter()
    try:
        outputs = runner.forward(batch)
    except BrokenContract as error:
        raise StartupError(f"{_named(spec, batch)} failed: {error}") from error
    except Exception as error:  # a module is foreign code: whatever it raises, it can't be served
        raise StartupError(f"{_named(spec, batch)} failed: {disk.one_line(error)}") from error
    took_s = time.perf_counter() - begun
    if complaint := disk.misshapen(runner.answered(batch), outputs, batch.rows):
        raise StartupError(f"{_named(spec, batch)} failed: {complaint}")
    return took_s


def _named(spec: disk.ModelSpec, batch: Unpacked) -> str:
    extras = "" if batch.wants_extras is None else f", {batch.wants_extras.sum()} of them asking for extras,"
    return f"{spec.name}/{spec.version}: warm-up with {batch.rows} rows{extras}"
