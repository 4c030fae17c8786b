"""Rows whose answers are known: read, held against the spec, and run.

`golden.npz` has `input.<name>`, `lengths.<axis>` (int64) and `output.<name>`: one batch that a replica could get.
A spec that lies about an input is caught by the arrays, one that lies about an output by the module's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headrace_models.agreement import Distance, furthest
from headrace_models.schema import DATATYPES, STRINGS, ModelSpec, SpecError, TensorSpec, one_line
from headrace_models.values import numbers, too_long

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]


def golden(spec: ModelSpec, directory: Path) -> tuple[Arrays, Arrays, Arrays]:
    """The golden rows: inputs, lengths and the outputs they must give. Raises: SpecError."""
    path = directory / spec.golden
    groups = _read(path)
    for kind, expected in (("input", spec.inputs), ("lengths", spec.axes), ("output", spec.outputs)):
        if wrong := groups[kind].keys() ^ {named.name for named in expected}:
            surplus = min(wrong) in groups[kind]
            what = f"holds {kind}.{min(wrong)}, unknown to spec.yaml" if surplus else f"has no {kind}.{min(wrong)}"
            raise SpecError(f"{path}: {what}")
    found = groups["input"], groups["lengths"], groups["output"]
    if complaint := next(_contradictions(spec, *found), None):
        raise SpecError(f"{path}: {complaint}")
    return found


def verify_golden(module: torch.nn.Module, spec: ModelSpec, directory: Path, *, device: str = "cpu") -> Distance:
    """How far the golden rows' answers are from what they were. Raises: SpecError when that is too far."""
    inputs, lengths, expected = golden(spec, directory)
    try:
        answers = _run(module, spec, inputs, lengths, device)
    except Exception as error:  # a module is foreign code
        raise SpecError(f"{directory}: the module fails on its golden rows: {one_line(error)}") from error
    if complaint := misshapen(spec.outputs, answers, len(next(iter(expected.values())))):
        raise SpecError(f"{directory}: {complaint}")
    worst = furthest(spec.outputs, answers, expected, device)
    if not worst.within:
        raise SpecError(
            f"{directory}: output '{worst.output}' of golden row {worst.row} is {worst.worst:g} away from its golden"
            f" value (tolerance {worst.tolerance:g})"
        )
    return worst


def misshapen(tensors: Sequence[TensorSpec], answers: Mapping[str, npt.NDArray[Any]], rows: int) -> str | None:
    """What the spec says of these outputs and is not true of the answers."""
    for tensor in tensors:
        if tensor.name not in answers:
            return f"the module gives no output '{tensor.name}'"
        found = answers[tensor.name]
        if found.shape != (rows, *tensor.array_dims):
            return f"output '{tensor.name}' has shape {list(found.shape)}, the spec says {[rows, *tensor.array_dims]}"
        if found.dtype != DATATYPES[tensor.datatype]:
            return f"output '{tensor.name}' is {found.dtype}, the spec says {tensor.datatype}"
        if tensor.datatype == STRINGS and too_long(tensor, found).any():
            return f"output '{tensor.name}' has a string of more than max_bytes, {tensor.max_bytes}"
    return None


def _run(module: torch.nn.Module, spec: ModelSpec, inputs: Arrays, lengths: Arrays, device: str) -> Arrays:
    import torch  # noqa: PLC0415  reading a spec must not need torch

    from headrace_models.tensors import to_array, to_tensor  # noqa: PLC0415  as above

    with torch.inference_mode():
        answers = module(
            {t.name: to_tensor(inputs[t.name], t.datatype).to(device) for t in spec.inputs},
            {name: torch.from_numpy(values) for name, values in lengths.items()},
        )
        return {t.name: to_array(answers[t.name], t.datatype) for t in spec.outputs if t.name in answers}


def _read(path: Path) -> dict[str, Arrays]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {kind: _group(arrays, f"{kind}.") for kind in ("input", "lengths", "output")}
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged archive raises what it likes
        raise SpecError(f"{path}: cannot be read ({one_line(error)})") from error


def _group(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


# What cannot be true of the arrays, given the spec --------------------------------------------------------------------


def _contradictions(spec: ModelSpec, inputs: Arrays, lengths: Arrays, outputs: Arrays) -> Iterator[str]:
    rows = len(np.atleast_1d(outputs[spec.outputs[0].name]))
    if not 1 <= rows <= spec.max_rows:
        yield f"has {rows} rows, but a batch has from 1 to max_rows, {spec.max_rows}"
    for axis in spec.axes:
        yield from _array(f"lengths.{axis.name}", lengths[axis.name], "INT64", (rows,))
        if not axis.required <= lengths[axis.name].min() or lengths[axis.name].max() > axis.cap:
            yield f"lengths.{axis.name} has a length that is not from {int(axis.required)} to the cap, {axis.cap}"
    if (tokens := sum(int(values.sum()) for values in lengths.values())) > spec.max_tokens:
        yield f"has {tokens} tokens, more than max_tokens, {spec.max_tokens}"
    for tensor in spec.inputs:
        entries = int(lengths[tensor.axis].sum()) if tensor.axis else rows
        yield from _array(f"input.{tensor.name}", inputs[tensor.name], tensor.datatype, (entries, *_entry(tensor)))
        yield from _values(tensor, inputs[tensor.name], lengths)
    for tensor in spec.outputs:
        yield from _array(f"output.{tensor.name}", outputs[tensor.name], tensor.datatype, (rows, *tensor.array_dims))


def _entry(tensor: TensorSpec) -> tuple[int, ...]:
    return tensor.array_dims[1:] if tensor.axis else tensor.array_dims


def _array(name: str, values: npt.NDArray[Any], datatype: str, shape: tuple[int, ...]) -> Iterator[str]:
    if values.dtype != DATATYPES[datatype]:
        yield f"{name} is {values.dtype}, the spec says {datatype}"
    if values.shape != shape:
        yield f"{name} has shape {list(values.shape)}, but the spec and the lengths say {list(shape)}"


def _values(tensor: TensorSpec, values: npt.NDArray[Any], lengths: Arrays) -> Iterator[str]:
    """A golden row that a gateway would refuse proves nothing."""
    if tensor.datatype == STRINGS and too_long(tensor, values).any():
        yield f"input.{tensor.name} has a string of more than max_bytes, {tensor.max_bytes}"
    values = numbers(values, tensor.datatype)
    if tensor.finite and not np.isfinite(values).all():
        yield f"input.{tensor.name} has a value that is not finite, which the spec forbids"
    if tensor.minimum is not None and (values < tensor.minimum).any():
        yield f"input.{tensor.name} has a value below {tensor.minimum}, which the spec forbids"
    if tensor.ordered and tensor.axis:
        starts = np.cumsum(lengths[tensor.axis])
        if np.setdiff1d(np.flatnonzero(values[1:] < values[:-1]) + 1, starts).size:
            yield f"input.{tensor.name} falls inside a row, which the spec forbids"
