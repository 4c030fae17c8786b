"""Runs one packed batch: unpack → forward → pack. The one place with inference mode, and the one that moves data.

Synchronous, on the replica's own thread; knows nothing of callers, sockets or Ray. No object per row: numbers at most.

The forward pass empties the processor's caches, so that whatever follows it runs cold: a numpy ufunc then costs twenty
microseconds, ten times what it costs in a loop. Where nothing is wrong with a batch there is none.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.errors import BrokenContract, HeadraceError, ModelFailed
from headrace.serving.recorded import Recorded, recordable
from headrace.serving.stopwatch import CudaStopwatch, Stopwatch
from headrace.v1 import replica_pb2
from headrace_models import spec as disk
from headrace_models.tensors import to_array
from headrace_models.values import numbers, too_long

OK: Final = replica_pb2.ROW_STATUS_OK
EXPIRED: Final = replica_pb2.ROW_STATUS_EXPIRED
NOT_FINITE: Final = replica_pb2.ROW_STATUS_NOT_FINITE
FAILED: Final = replica_pb2.ROW_STATUS_FAILED
BITS: Final = frozenset({"BF16", "BYTES"})
"""Datatypes whose arrays are not the numbers that they stand for."""

# Columns are read-only memory of the received message. Nothing writes to an input, and a copy would cost every batch.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

Columns = dict[str, npt.NDArray[np.generic]]
Tensors = tuple[disk.TensorSpec, ...]
Rows = npt.NDArray[np.int64]
Answers = dict[str, Tensor]


@dataclass(slots=True)
class Unpacked:
    """A batch as arrays: columns packed, lengths per axis, one entry a row."""

    columns: Columns
    lengths: dict[str, npt.NDArray[np.int64]]
    rows: int
    wants_extras: npt.NDArray[np.bool_] | None = None
    """Which rows ask for the model's extras; None = nobody does."""


@dataclass(slots=True)
class Computed:
    """What a batch became."""

    columns: list[bytes]
    status: bytes
    padded_tokens: int


@dataclass(frozen=True, slots=True)
class _Column:
    """How an input lies in a message."""

    name: str
    axis: str | None
    dtype: np.dtype[np.generic]
    dims: tuple[int, ...]
    """Of one entry: a row, or an event of its axis."""
    size: int
    """Of one entry, in bytes."""

    @classmethod
    def of(cls, tensor: disk.TensorSpec) -> _Column:
        dtype = np.dtype(disk.DATATYPES[tensor.datatype])
        dims = tensor.array_dims[1:] if tensor.axis else tensor.array_dims
        return cls(tensor.name, tensor.axis, dtype, dims, dtype.itemsize * math.prod(dims))

    def values(self, raw: bytes, entries: int) -> npt.NDArray[np.generic]:
        """Where they lie, without a copy. Raises: BrokenContract."""
        if len(raw) != entries * self.size:
            raise BrokenContract(f"column '{self.name}' does not have {entries} entries")
        return np.ndarray((entries, *self.dims), self.dtype, raw)


def pick_device(wanted: str) -> str:
    """`auto`: the GPU where there is one."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


class Runner:
    """One module on one device."""

    def __init__(self, module: torch.nn.Module, spec: disk.ModelSpec, device: str) -> None:
        self._module = module
        self._spec = spec
        self.device = device
        self.device_lost = False
        """Its context is gone for good: every later batch would fail. Only another process helps."""
        self.stopwatch = CudaStopwatch() if device == "cuda" else Stopwatch()
        self._inputs = [_Column.of(tensor) for tensor in spec.inputs]
        self._halves = [tensor.name for tensor in spec.inputs if tensor.datatype == "BF16"]
        self._recorded = Recorded(module, spec) if device == "cuda" and recordable(module) else None

    @property
    def precision(self) -> str:
        """Of most of the weights: float32, bfloat16, …; empty when there are none."""
        counts: Counter[str] = Counter()
        for parameter in self._module.parameters():
            counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
        return counts.most_common(1)[0][0] if counts else ""

    def record(self) -> None:
        """Record what is replayed in service: once, before the first batch. Nothing to do on a CPU."""
        if self._recorded is not None:
            self._recorded.record()

    def run(self, batch: replica_pb2.PackedBatch, waited_s: float) -> Computed:
        """Compute every row that still has time left; `waited_s` has passed since the batch was received.

        Raises: BrokenContract when the columns do not fit the spec, ModelFailed when the whole batch fails.
        """
        self.stopwatch.reset()
        unpacked = self._unpack(batch)
        alive = _alive(batch, waited_s)
        some = unpacked if alive is None else take(unpacked, alive, self._spec)
        self.stopwatch.unpacked()
        tensors, fared = self.answered(some), bytearray(some.rows)  # OK until something is found
        outputs = self._compute(some, fared)
        self._mark_not_finite(tensors, outputs, fared)
        status = bytes(fared) if alive is None else _status(fared, alive, unpacked.rows)
        return Computed(
            columns=[_packed(tensor, outputs[tensor.name], fared, status) for tensor in tensors],
            status=status,
            padded_tokens=self._padded_tokens(some),
        )

    def forward(self, some: Unpacked) -> Columns:
        """The module on these rows: to the device, through it, and back. Shapes: outputs [rows, …].

        Raises: ModelFailed when the device is lost, and whatever the module raises.
        """
        try:
            return self._forward(some)
        except torch.AcceleratorError as error:
            self.device_lost = True
            raise ModelFailed("the device failed") from error

    def _forward(self, some: Unpacked) -> Columns:
        compute = self._staged(some)
        self.stopwatch.copied()
        with torch.inference_mode():
            answers = compute()
            extras = self._extras(some)
            self.stopwatch.computed()
            outputs = {tensor.name: to_array(answers[tensor.name], tensor.datatype) for tensor in self._spec.outputs}
            if some.wants_extras is not None:
                outputs |= {tensor.name: self._spread(tensor, some.rows, extras) for tensor in self._spec.extras}
        self.stopwatch.fetched()
        return outputs

    def _staged(self, some: Unpacked) -> Callable[[], Answers]:
        """The pass over these rows, their columns on the device: recorded where it can be, else as it is."""
        if self._recorded is not None and (graph := self._recorded.stage(some.columns, some.lengths, some.rows)):
            return partial(graph.replay, some.rows)
        return partial(self._module, *self._arguments(some))

    def _arguments(self, some: Unpacked) -> tuple[Answers, Answers]:
        inputs = {name: self._to_device(column) for name, column in some.columns.items()}
        for name in self._halves:
            inputs[name] = inputs[name].view(torch.bfloat16)
        return inputs, {name: torch.from_numpy(values) for name, values in some.lengths.items()}

    def _extras(self, some: Unpacked) -> list[tuple[Rows, Answers]]:
        """What the module says to the rows that ask, a part at a time: a request may ask for more than memory holds."""
        found = []
        for rows in self._parts(some):
            inputs, lengths = self._arguments(take(some, rows, self._spec))
            found.append((rows, self._module.extras(inputs, lengths)))  # type: ignore[operator]
        return found

    def _parts(self, some: Unpacked) -> list[Rows]:
        """The rows that ask, in parts that cost about as much as a batch may."""
        if some.wants_extras is None or not some.wants_extras.any():
            return []
        asking = np.flatnonzero(some.wants_extras)
        costs = self._spec.extras_rows * _tokens(some)[asking]
        return np.split(asking, np.flatnonzero(np.diff((np.cumsum(costs) - 1) // self._spec.max_tokens)) + 1)

    def _spread(self, tensor: disk.TensorSpec, rows: int, parts: list[tuple[Rows, Answers]]) -> npt.NDArray[np.generic]:
        """One extra over all rows, zeros where nobody asked; of whatever datatype the module made it."""
        if not parts:
            return np.zeros((rows, *tensor.array_dims), disk.DATATYPES[tensor.datatype])
        values = np.concatenate([_of_these(tensor, asking, found) for asking, found in parts])
        full = np.zeros((rows, *tensor.array_dims), values.dtype)
        full[np.concatenate([asking for asking, _ in parts])] = values
        return full

    def _to_device(self, column: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(column)
        return tensor if self.device == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _unpack(self, batch: replica_pb2.PackedBatch) -> Unpacked:
        spec, rows = self._spec, batch.rows
        raw_columns, raw_lengths = batch.columns, batch.lengths
        if len(raw_columns) != len(spec.inputs) or len(raw_lengths) != len(spec.axes):
            raise BrokenContract(f"expected {len(spec.inputs)} columns and {len(spec.axes)} axes")
        if rows > spec.max_rows:
            raise BrokenContract(f"{rows} rows, but a batch has {spec.max_rows} at most")
        lengths: dict[str, Rows] = {}
        entries: dict[str | None, int] = {None: rows}
        for axis, raw in zip(spec.axes, raw_lengths, strict=True):
            lengths[axis.name], entries[axis.name] = _lengths(raw, rows, axis.cap)
        columns = {
            column.name: column.values(raw, entries[column.axis])
            for column, raw in zip(self._inputs, raw_columns, strict=True)
        }
        return Unpacked(columns, lengths, rows, self._wants_extras(batch))

    def _wants_extras(self, batch: replica_pb2.PackedBatch) -> npt.NDArray[np.bool_] | None:
        if not (wants := batch.wants_extras):
            return None
        if len(wants) != batch.rows:
            raise BrokenContract("it is not said of every row whether it wants extras")
        if not self._spec.extras:
            raise BrokenContract("the model has no extras")
        return np.frombuffer(wants, np.uint8) > 0

    def _compute(self, some: Unpacked, fared: bytearray) -> Columns:
        """Outputs of the living rows; a row on which the module raises is marked, its mates are not harmed."""
        if not some.rows:
            for passed in (self.stopwatch.copied, self.stopwatch.computed, self.stopwatch.fetched):
                passed()
            return {t.name: np.zeros((0, *t.array_dims), disk.DATATYPES[t.datatype]) for t in self.answered(some)}
        try:
            return self.forward(some)
        except HeadraceError:
            raise
        except Exception as error:  # a module is foreign code: whatever it raises must stay within its batch
            if some.rows == 1:
                raise ModelFailed(f"the module raised {type(error).__name__}") from error
            return self._one_by_one(some, fared)

    def _one_by_one(self, some: Unpacked, fared: bytearray) -> Columns:
        answers: list[Columns | None] = []
        begun_ns = time.perf_counter_ns()
        for row in range(some.rows):
            try:
                answers.append(self.forward(take(some, np.array([row]), self._spec)))
            except HeadraceError:
                raise
            except Exception:  # noqa: BLE001  as above: this row's own failure, found
                fared[row] = FAILED
                answers.append(None)
        self.stopwatch.row_by_row(begun_ns)
        known = next((answer for answer in answers if answer is not None), None)
        if known is None:
            raise ModelFailed("the module raised on every row")
        blank = {name: np.zeros_like(values) for name, values in known.items()}
        return {name: np.concatenate([(answer or blank)[name] for answer in answers]) for name in known}

    def answered(self, batch: Unpacked) -> Tensors:
        """What such a batch is answered with."""
        return self._spec.outputs if batch.wants_extras is None else self._spec.outputs + self._spec.extras

    def _mark_not_finite(self, tensors: Tensors, outputs: Columns, fared: bytearray) -> None:
        """Check what came out; after this a row's status is final. Raises: BrokenContract for another shape."""
        for tensor in tensors:
            values = outputs[tensor.name]
            if values.shape != (len(fared), *tensor.array_dims):
                raise BrokenContract(f"output '{tensor.name}' has shape {values.shape}")
            if tensor.datatype in BITS:
                values = _from_bits(tensor, values, fared)
            if values.dtype.kind == "f" and not _all_finite(values):
                for row in np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)):
                    fared[row] = NOT_FINITE  # not a failed one's: those are zeros

    def _padded_tokens(self, some: Unpacked) -> int:
        """Tokens computed for these rows, extras counted as the rows that they cost: as gateways count."""
        recorded = 0 if self._recorded is None else self._recorded.padded_tokens(some.lengths, some.rows)
        return (recorded or self._padded(some)) + sum(
            self._spec.extras_rows * self._padded(take(some, rows, self._spec)) for rows in self._parts(some)
        )

    def _padded(self, some: Unpacked) -> int:
        count = getattr(self._module, "padded_tokens", None)
        if count is None or not some.rows:
            return int(sum(lengths.sum() for lengths in some.lengths.values())) or some.rows
        return int(count({name: torch.from_numpy(values) for name, values in some.lengths.items()})) or some.rows


def _of_these(tensor: disk.TensorSpec, asking: Rows, found: Answers) -> npt.NDArray[np.generic]:
    """What the module says to the rows that ask. Raises: BrokenContract for another shape: numpy would broadcast it."""
    values: npt.NDArray[np.generic] = to_array(found[tensor.name], tensor.datatype)
    if values.shape != (shape := (len(asking), *tensor.array_dims)):
        raise BrokenContract(f"output '{tensor.name}' has shape {list(values.shape)}, the spec says {list(shape)}")
    return values


def _from_bits(tensor: disk.TensorSpec, values: npt.NDArray[np.generic], fared: bytearray) -> npt.NDArray[np.generic]:
    """The numbers that they are; a row with an impossible string is marked.

    Raises: BrokenContract for another dtype, which would be cast to nonsense.
    """
    if values.dtype != disk.DATATYPES[tensor.datatype]:
        raise BrokenContract(f"output '{tensor.name}' is {values.dtype}, the spec says {tensor.datatype}")
    if tensor.datatype == "BYTES":
        for row in np.flatnonzero(too_long(tensor, values).reshape(len(values), -1).any(axis=1)):
            fared[row] = FAILED
    return numbers(values, tensor.datatype)


def _tokens(batch: Unpacked) -> npt.NDArray[np.int64]:
    """Of each row, at least one."""
    return np.maximum(1, sum(batch.lengths.values(), np.zeros(batch.rows, np.int64)))


def _alive(batch: replica_pb2.PackedBatch, waited_s: float) -> Rows | None:
    """The rows that still have time left; None = all of them. Raises: BrokenContract."""
    rows, raw = batch.rows, batch.remaining_s
    if len(raw) != 8 * rows:
        raise BrokenContract("not every row has a remaining time")
    remaining_s = np.frombuffer(raw, "<f8")
    # The least first: to compare all costs three times as much. NaN is the least of all, and no time left.
    if rows and remaining_s.item(remaining_s.argmin()) > waited_s:
        return None
    return np.flatnonzero(remaining_s > waited_s)


def _lengths(raw: bytes, rows: int, cap: int) -> tuple[Rows, int]:
    """The length of each row on an axis, and their sum. Raises: BrokenContract."""
    if len(raw) != 4 * rows:
        raise BrokenContract("an axis does not have a length for every row")
    lengths = np.ndarray(rows, "<i4", raw).astype(np.int64)
    numbers = lengths.tolist()  # for as many rows as a batch has, numpy's own `min` and `sum` cost twice as much
    if numbers and not 0 <= min(numbers) <= max(numbers) <= cap:
        raise BrokenContract(f"a row's length is not one of 0 to {cap}")
    return lengths, sum(numbers)


def _all_finite(values: npt.NDArray[np.generic]) -> bool:
    """NaN is the first to be found by `argmax`, infinity by one of the two. Half the price of `np.isfinite`."""
    if not values.size:
        return True
    return math.isfinite(values.item(values.argmax())) and math.isfinite(values.item(values.argmin()))


def _status(fared: bytearray, alive: Rows, rows: int) -> bytes:
    """The status of every row, given that of those alive."""
    status = np.full(rows, EXPIRED, np.uint8)
    status[alive] = np.frombuffer(fared, np.uint8)
    return status.tobytes()


def _packed(tensor: disk.TensorSpec, values: npt.NDArray[np.generic], fared: bytearray, status: bytes) -> bytes:
    """One output over all rows of the batch, zeros where a row's status is not OK. `values`: of those alive."""
    dtype = disk.DATATYPES[tensor.datatype]
    if not any(status):
        return values.astype(dtype, copy=False).tobytes()
    full = np.zeros((len(status), *tensor.array_dims), dtype)
    full[_ok(status)] = values[_ok(fared)]
    return full.tobytes()


def _ok(status: bytes | bytearray) -> npt.NDArray[np.bool_]:
    ok: npt.NDArray[np.bool_] = np.frombuffer(status, np.uint8) == OK
    return ok


def take(batch: Unpacked, rows: npt.NDArray[np.int64], spec: disk.ModelSpec) -> Unpacked:
    """Some rows of a batch, in this order; a row may come more than once."""
    entries = {name: _entries(lengths, rows) for name, lengths in batch.lengths.items()}
    columns = {t.name: batch.columns[t.name][entries[t.axis] if t.axis else rows] for t in spec.inputs}
    lengths = {name: values[rows] for name, values in batch.lengths.items()}
    return Unpacked(columns, lengths, len(rows), None if batch.wants_extras is None else batch.wants_extras[rows])


def _entries(lengths: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of these rows' entries in a packed column."""
    taken = lengths[rows]
    starts = (np.cumsum(lengths) - lengths)[rows]
    return np.repeat(starts - (np.cumsum(taken) - taken), taken) + np.arange(taken.sum())
