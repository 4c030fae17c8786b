"""A model's spec, held against what a gateway can serve: sizes, names and datatypes that no request could ever meet.

Called for every registration. A replica that is started from a folder has looked more closely; this is for the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

from headrace.control.names import MAX_TEXT, check_name
from headrace.core.tensors import DATATYPES, LENGTH_BYTES, MAX_STRING
from headrace.errors import InvalidInference
from headrace.v1 import control_pb2

LARGEST: Final = 2**31 - 1
"""What every size fits into on the way to a replica."""
MAX_ENTRY: Final = 64 << 20
"""Bytes of a row, or of an event: as many as a message may have. An input that is left out is made by the gateway."""
MAX_COST: Final = 1 << 20
"""Rows that an extra may cost."""


def check(spec: control_pb2.ModelSpec) -> None:
    """Raises: InvalidInference naming the field."""
    _check_sizes("spec", {"max_rows": spec.max_rows, "max_tokens": spec.max_tokens}, least=0)
    _check_names("spec.axes", spec.axes)
    _check_names("spec.inputs", spec.inputs)
    _check_names("spec.extras", [*spec.outputs, *spec.extras])
    used = {tensor.axis for tensor in spec.inputs}
    for place, axis in enumerate(spec.axes):
        _check_sizes(f"spec.axes.{place}", {"cap": axis.cap})
        if axis.name not in used:
            raise InvalidInference(f"spec.axes.{place}: no input has it")
    axes = {axis.name for axis in spec.axes}
    for place, tensor in enumerate(spec.inputs):
        _check_tensor(f"spec.inputs.{place}", tensor, axes)
    for group in ("outputs", "extras"):
        for place, tensor in enumerate(getattr(spec, group)):
            _check_tensor(f"spec.{group}.{place}", tensor, set())


def _check_tensor(where: str, tensor: control_pb2.TensorSpec, axes: set[str]) -> None:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidInference(f"{where}.datatype: {tensor.datatype[:32]!r} is not one of {', '.join(DATATYPES)}")
    if not (0 < tensor.max_bytes <= MAX_STRING if tensor.datatype == "BYTES" else tensor.max_bytes == 0):
        raise InvalidInference(f"{where}.max_bytes: {tensor.max_bytes} is not from 1 to {MAX_STRING}, for BYTES only")
    if tensor.axis and tensor.axis not in axes:
        raise InvalidInference(f"{where}.axis: {tensor.axis[:MAX_TEXT]!r} is no axis of the model's inputs")
    if bool(tensor.axis) != (tensor.dims[:1] == [-1]):
        raise InvalidInference(f"{where}.dims: -1 comes first, and only there, where a tensor has an axis")
    if tensor.optional and tensor.axis:
        raise InvalidInference(f"{where}.optional: it has an axis, and an empty row is left out already")
    dims = tensor.dims[1:] if tensor.axis else tensor.dims
    _check_sizes(f"{where}.dims", {str(place): size for place, size in enumerate(dims)})
    size = LENGTH_BYTES + tensor.max_bytes if tensor.datatype == "BYTES" else datatype.itemsize
    if prod(dims) * size > MAX_ENTRY:
        raise InvalidInference(f"{where}.dims: more than {MAX_ENTRY} bytes")
    if tensor.costs_rows > MAX_COST:
        raise InvalidInference(f"{where}.costs_rows: {MAX_COST} at most")


def _check_sizes(where: str, sizes: dict[str, int], least: int = 1) -> None:
    for name, size in sizes.items():
        if not least <= size <= LARGEST:
            raise InvalidInference(f"{where}.{name}: {size} is not one of {least} to {LARGEST}")


def _check_names(where: str, named: Iterable[Any]) -> None:
    seen: set[str] = set()
    for place, one in enumerate(named):
        check_name(f"{where}.{place}.name", one.name)
        if one.name in seen:
            raise InvalidInference(f"{where}.{place}.name: {one.name!r} is there twice")
        seen.add(one.name)
