"""Forward passes recorded once as CUDA graphs and replayed: launching sixty small kernels costs more than running them.

One graph for each size of batch, all recorded before the replica is ready; a batch takes the smallest it fits. Only for
modules with `recorded(inputs, segments)`, whose work waits for nothing on the host. Owned by the runner.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace_models import segments
from headrace_models import spec as disk
from headrace_models.consistency import row_tokens
from headrace_models.tensors import to_tensor

EVENTS: Final = (1024, 2048, 4096, 8192, 16_384, 32_768)
"""Events of an axis that a graph has room for."""
ROWS: Final = (33, 65, 129, 257)
"""Rows it has room for; one is always free (`segments.padded`)."""
REHEARSALS: Final = 3
"""Runs before recording, in which kernels are chosen. Source: the documentation of torch.cuda.graph."""

Columns = Mapping[str, npt.NDArray[Any]]
Size = tuple[int, int]


def recordable(module: torch.nn.Module) -> bool:
    return hasattr(module, "recorded")


def sizes(spec: disk.ModelSpec) -> list[Size]:
    """(rows, events) of every graph a batch of this model may need, smallest first."""
    rows = [size for i, size in enumerate(ROWS) if i == 0 or ROWS[i - 1] - 1 < spec.max_rows]
    longest = max(spec.max_tokens, row_tokens(spec))
    events = [size for i, size in enumerate(EVENTS) if i == 0 or EVENTS[i - 1] < longest]
    return sorted(product(rows, events), key=lambda size: (size[1], size[0]))


def fitting(known: list[Size], rows: int, events: int) -> Size | None:
    """The smallest size with room for so many rows and, on every axis, events; None: there is none."""
    return next((size for size in known if rows < size[0] and events <= size[1]), None)


class Recorded:
    """The graphs of one module."""

    def __init__(self, module: torch.nn.Module, spec: disk.ModelSpec) -> None:
        self._module = module
        self._spec = spec
        self._known = sizes(spec)
        self._graphs: dict[Size, _Graph] = {}
        self._pool: Any = None

    def record(self) -> None:
        """Record every size, and replay it once. Slow: before the replica is ready.

        The largest first: the others then fit into memory that it has used.
        """
        for size in reversed(self._known):
            self._graphs[size] = graph = _Graph(self._module, self._spec, size)
            graph.record(self._pool)
            graph.replay(1)
            self._pool = self._pool or graph.pool

    def padded_tokens(self, lengths: Columns, rows: int) -> int | None:
        """Events computed for a batch of these lengths, fillers included; None: it fits no graph."""
        size = self._size(lengths, rows)
        return None if size is None else size[1] * len(lengths)

    def stage(self, columns: Columns, lengths: Columns, rows: int) -> _Graph | None:
        """The graph for this batch with the batch in it, on its way to the device; None: it fits none."""
        size = self._size(lengths, rows)
        if size is None:
            return None
        graph = self._graphs[size]
        graph.fill(columns, lengths)
        return graph

    def _size(self, lengths: Columns, rows: int) -> Size | None:
        events = max((int(values.sum()) for values in lengths.values()), default=0)
        return fitting(self._known, rows, events) if self._graphs else None


class _Graph:
    """One recorded pass: memory of a fixed size on both sides, and the kernels between."""

    def __init__(self, module: torch.nn.Module, spec: disk.ModelSpec, size: Size) -> None:
        self._module = module
        self._rows, self._events = size
        self._datatypes = {t.name: t.datatype for t in spec.inputs}
        self._inputs = {t.name: _Staged(self._zeros(t)) for t in spec.inputs}
        nothing = torch.zeros(1, dtype=torch.int64)
        self._segments = {
            axis.name: [_Staged.of(part) for part in segments.padded(nothing, self._rows, self._events)]
            for axis in spec.axes
        }
        self._graph = torch.cuda.CUDAGraph()
        self._outputs: dict[str, Tensor] = {}

    @property
    def pool(self) -> Any:
        return self._graph.pool()

    def record(self, pool: Any) -> None:
        inputs = {name: staged.device for name, staged in self._inputs.items()}
        rows = {name: segments.Segments(*(part.device for part in parts)) for name, parts in self._segments.items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(aside):
            for _ in range(REHEARSALS):
                self._module.recorded(inputs, rows)  # type: ignore[operator]
        torch.cuda.current_stream().wait_stream(aside)
        with torch.inference_mode(), torch.cuda.graph(self._graph, pool=pool):
            self._outputs = self._module.recorded(inputs, rows)  # type: ignore[operator]

    def fill(self, columns: Columns, lengths: Columns) -> None:
        for name, staged in self._inputs.items():
            staged.fill(to_tensor(columns[name], self._datatypes[name]))
        for name, parts in self._segments.items():
            rows = segments.padded(torch.from_numpy(lengths[name]), self._rows, self._events)
            for staged, part in zip(parts, rows, strict=True):
                staged.fill(part)

    def replay(self, rows: int) -> dict[str, Tensor]:
        """The outputs of the batch that `fill` brought, on the device: valid until the next one."""
        self._graph.replay()
        return {name: values[:rows] for name, values in self._outputs.items()}

    def _zeros(self, tensor: disk.TensorSpec) -> Tensor:
        """As much of an input as there is room for."""
        shape = (self._events, *tensor.array_dims[1:]) if tensor.axis else (self._rows, *tensor.array_dims)
        return to_tensor(np.zeros(shape, disk.DATATYPES[tensor.datatype]), tensor.datatype)


class _Staged:
    """A tensor of a fixed place on the device, and pinned memory through which it is filled without waiting."""

    def __init__(self, zeros: Tensor) -> None:
        self._pinned = zeros.pin_memory()
        self.device = self._pinned.to("cuda")

    @classmethod
    def of(cls, values: Tensor) -> _Staged:
        staged = cls(torch.zeros_like(values))
        staged.fill(values)
        return staged

    def fill(self, values: Tensor) -> None:
        """Bring these, from the front; what was behind them stays."""
        count = len(values)
        self._pinned[:count].copy_(values)
        self.device[:count].copy_(self._pinned[:count], non_blocking=True)
