"""What cannot be true of a spec, whatever its weights: fields that contradict each other, sizes, names, paths.

Each check yields sentences that begin with the field; `spec.py` raises the first. Later checks rely on earlier ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod
from typing import Final

from headrace_models.schema import DATATYPES, STRINGS, Axis, ModelSpec, TensorSpec, WarmUp
from headrace_models.strings import LENGTH_BYTES, MAX_STRING

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of models: they become a directory, a path of a URL, a label of metrics."""
FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""A file beside the spec: no separator, so nothing outside the directory can be named."""
LARGEST: Final = 2**31 - 1
"""What every size fits into on the wire."""
MAX_STRINGS: Final = 16 << 20
"""Bytes that the strings of a full batch may take, in or out: a batch is one message, and a message has 64 MiB."""


def contradictions(spec: ModelSpec) -> Iterator[str]:
    """Sentences, the first of which is worth telling; what follows it may be nonsense."""
    yield from _own_fields(spec)
    yield from _files(spec)
    yield from _tensors("inputs", spec.inputs, spec.axes)
    yield from _tensors("outputs", spec.outputs, spec.axes)
    yield from _outputs(spec)
    yield from _extras(spec)
    if spec.signal is not None and not spec.signal.name:
        yield "signal.name: is empty"
    yield from _axes(spec)
    yield from _budgets(spec)
    yield from _warmup(spec)


def row_tokens(spec: ModelSpec) -> int:
    """What the longest row costs: its caps, summed; a model without axes counts one token a row."""
    return sum(axis.cap for axis in spec.axes) or 1


def _own_fields(spec: ModelSpec) -> Iterator[str]:
    if not NAME.fullmatch(spec.name):
        yield f"name: '{spec.name}' is not made of letters, digits, '.', '_' and '-'"
    yield from _sizes("", {"version": spec.version, "max_rows": spec.max_rows, "max_tokens": spec.max_tokens})


def _sizes(where: str, sizes: dict[str, int], at_least: int = 1) -> Iterator[str]:
    for name, value in sizes.items():
        if not at_least <= value <= LARGEST:
            yield f"{where}{name}: must be from {at_least} to {LARGEST}, got {value}"


def _files(spec: ModelSpec) -> Iterator[str]:
    for field in ("weights", "golden"):
        name = getattr(spec, field)
        if not FILE.fullmatch(name):
            yield f"{field}: '{name}' is not the plain name of a file beside spec.yaml"
    source, colon, function = spec.factory.partition(":")
    if not colon or not function.isidentifier():
        yield f"factory: '{spec.factory}' is not of the form module:function"
    elif not (FILE if source.endswith(".py") else re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")).fullmatch(source):
        yield f"factory: '{source}' is neither a module nor the plain name of a file beside spec.yaml"


def _tensors(where: str, tensors: tuple[TensorSpec, ...], axes: tuple[Axis, ...]) -> Iterator[str]:
    if not tensors:
        yield f"{where}: expected a list of tensors, got none"
    yield from _twice(where, tensors)
    declared = {axis.name for axis in axes}
    for i, tensor in enumerate(tensors):
        yield from (f"{where}.{i}.{complaint}" for complaint in _tensor(tensor, declared))


def _tensor(tensor: TensorSpec, axes: set[str]) -> Iterator[str]:
    if not tensor.name:
        yield "name: is empty"
    if tensor.datatype not in DATATYPES:
        yield f"datatype: '{tensor.datatype}' is not one of {', '.join(DATATYPES)}"
    if tensor.axis is not None and tensor.axis not in axes:
        yield f"axis: tensor '{tensor.name}' names the axis '{tensor.axis}', which is not declared"
    if (tensor.axis is not None) != (tensor.dims[:1] == (-1,)):
        yield f"dims: tensor '{tensor.name}' needs -1 first, and only there, where it names an axis"
    yield from _sizes("dims.", {str(i): dim for i, dim in enumerate(tensor.dims) if (i, dim) != (0, -1)})
    if tensor.optional and tensor.axis is not None:
        yield f"optional: tensor '{tensor.name}' is ragged, and an empty row is left out already"
    if tensor.optional and tensor.minimum is not None and tensor.minimum > 0:
        yield f"optional: tensor '{tensor.name}' is zeros where it is left out, and its minimum forbids them"
    if tensor.ordered and tensor.dims != (-1,):
        yield f"ordered: tensor '{tensor.name}' is not one value an event, so it has no order"
    if tensor.minimum is not None and not -(2**63) <= tensor.minimum < 2**63:
        yield f"minimum: {tensor.minimum} does not fit into 64 bits"
    yield from _strings(tensor)


def _strings(tensor: TensorSpec) -> Iterator[str]:
    if tensor.datatype != STRINGS:
        if tensor.max_bytes:
            yield "max_bytes: is asked of BYTES only"
        if tensor.datatype == "BF16" and tensor.ordered:
            yield f"ordered: tensor '{tensor.name}' is BF16, which has no more than three digits to order by"
        return
    if not 1 <= tensor.max_bytes <= MAX_STRING:
        yield f"max_bytes: BYTES need the length of the longest string, from 1 to {MAX_STRING}, got {tensor.max_bytes}"
    if tensor.finite or tensor.ordered or tensor.minimum is not None or tensor.tolerance is not None:
        yield "finite, minimum, ordered and tolerance are asked of numbers, not of BYTES"
    if tensor.labels:
        yield "labels are names of numbers, not of BYTES"


def _outputs(spec: ModelSpec) -> Iterator[str]:
    named = [(f"outputs.{i}", tensor) for i, tensor in enumerate(spec.outputs)]
    named += [(f"extras.{i}", tensor) for i, tensor in enumerate(spec.extras)]
    for where, tensor in named:
        if tensor.axis is not None:
            yield f"{where}.axis: outputs have fixed dims"
        if tensor.finite or tensor.ordered or tensor.minimum is not None or tensor.optional:
            yield f"{where}: finite, minimum, ordered and optional are asked of inputs only"
        if tensor.tolerance is not None and not 0 <= tensor.tolerance < float("inf"):
            yield f"{where}.tolerance: must be a number from 0, got {tensor.tolerance}"
    for i, tensor in enumerate(spec.inputs):
        if tensor.tolerance is not None:
            yield f"inputs.{i}.tolerance: is asked of outputs only"


def _extras(spec: ModelSpec) -> Iterator[str]:
    declared = {axis.name for axis in spec.axes}
    yield from _twice("extras", (*spec.outputs, *spec.extras))
    for i, tensor in enumerate(spec.extras):
        yield from (f"extras.{i}.{complaint}" for complaint in _tensor(tensor, declared))
        yield from _sizes(f"extras.{i}.", {"costs_rows": tensor.costs_rows})
    for where, tensors in (("outputs", spec.outputs), ("extras", spec.extras)):
        for i, tensor in enumerate(tensors):
            if tensor.labels and tensor.dims != (len(tensor.labels),):
                yield f"{where}.{i}.labels: {len(tensor.labels)} names for dims {list(tensor.dims)}"
    for where, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        for i, tensor in enumerate(tensors):
            if tensor.costs_rows:
                yield f"{where}.{i}: costs_rows are asked of extras only"
            if tensor.labels and where == "inputs":
                yield f"{where}.{i}: labels are asked of outputs and extras only"


def _axes(spec: ModelSpec) -> Iterator[str]:
    yield from _twice("axes", spec.axes)
    used = {tensor.axis for tensor in spec.inputs}
    for i, axis in enumerate(spec.axes):
        yield from _sizes(f"axes.{i}.", {"cap": axis.cap})
        if axis.name not in used:
            yield f"axes.{i}: no input has the axis '{axis.name}'"


def _twice(where: str, named: Iterable[TensorSpec | Axis]) -> Iterator[str]:
    seen: set[str] = set()
    for i, one in enumerate(named):
        if one.name in seen:
            yield f"{where}.{i}.name: '{one.name}' is there twice"
        seen.add(one.name)


def _budgets(spec: ModelSpec) -> Iterator[str]:
    for where, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs + spec.extras)):
        if (taken := spec.max_rows * sum(_string_bytes(spec, tensor) for tensor in tensors)) > MAX_STRINGS:
            yield f"{where}: the strings of {spec.max_rows} rows take {taken} bytes, more than {MAX_STRINGS}"
    if spec.max_tokens < row_tokens(spec):
        yield f"max_tokens: {spec.max_tokens} is less than one row may have, {row_tokens(spec)} (the sum of the caps)"


def _string_bytes(spec: ModelSpec, tensor: TensorSpec) -> int:
    """What the strings of the longest row take in a column."""
    if tensor.datatype != STRINGS:
        return 0
    caps = {axis.name: axis.cap for axis in spec.axes}
    return prod(caps.get(tensor.axis or "", 1) if dim == -1 else dim for dim in tensor.dims) * (
        LENGTH_BYTES + tensor.max_bytes
    )


def _warmup(spec: ModelSpec) -> Iterator[str]:
    if not spec.warmup:
        yield "warmup: expected at least one shape, got none"
    for i, shape in enumerate(spec.warmup):
        yield from (f"warmup.{i}.{complaint}" for complaint in _shape(spec, shape))


def _shape(spec: ModelSpec, shape: WarmUp) -> Iterator[str]:
    if not 1 <= shape.rows <= spec.max_rows:
        yield f"rows: must be from 1 to max_rows, {spec.max_rows}, got {shape.rows}"
    if unknown := shape.lengths.keys() - {axis.name for axis in spec.axes}:
        yield f"lengths: names the axis '{min(unknown)}', which is not declared"
    for axis in spec.axes:
        length = shape.length(axis)
        if not axis.required <= length <= axis.cap:
            yield f"lengths.{axis.name}: must be from {int(axis.required)} to the cap, {axis.cap}, got {length}"
    tokens = shape.rows * sum(shape.length(axis) for axis in spec.axes)
    if tokens > spec.max_tokens:
        yield f"rows: {shape.rows} rows of these lengths are {tokens} tokens, more than max_tokens, {spec.max_tokens}"
