"""Everything that may be slow the first time happens here, before a replica says it is ready."""

from __future__ import annotations

import numpy as np

from headrace.errors import StartupError
from headrace.serving.runner import Runner, Unpacked
from headrace_models import spec as disk

REPEATS = 3
"""The first run compiles and allocates, the second settles, the third shows that it has."""


def warm_up(runner: Runner, spec: disk.ModelSpec) -> None:
    """Run every warm-up shape of the spec on zeros. Raises: StartupError when one fails."""
    for shape in spec.warmup:
        lengths = {axis.name: np.full(shape.rows, shape.lengths.get(axis.name, 1), np.int64) for axis in spec.axes}
        columns = {}
        for tensor in spec.inputs:
            leading = (int(lengths[tensor.axis].sum()), *tensor.dims[1:]) if tensor.axis else (shape.rows, *tensor.dims)
            columns[tensor.name] = np.zeros(leading, disk.DATATYPES[tensor.datatype])
        for _ in range(REPEATS):
            try:
                runner.forward(Unpacked(columns, lengths, shape.rows))
            except Exception as error:  # a module is foreign code: whatever it raises, it can't be served
                what = " ".join(str(error).split()) or type(error).__name__
                raise StartupError(
                    f"{spec.name}/{spec.version}: warm-up with {shape.rows} rows failed: {what}"
                ) from error
