"""The slow path in: typed contents, inputs left out, and what is wrong with a request, with Triton's sentence for it.

Called by the decoder where its one pass has said no. Checks names first, then shapes, then bytes.
"""

from __future__ import annotations

from typing import Any, Final

from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import InvalidInference, Unsupported
from headrace.gateway.codec.contents import check_size, raw_bytes
from headrace.gateway.codec.strings import laid_out

DISABLED: Final = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."


def take_slowly(request: Any, spec: ModelSpec) -> tuple[list[bytes], int, list[int]]:
    """Typed contents, inputs left out, or something wrong. Raises: InvalidInference, Unsupported."""
    tensors, raws = _match(request, spec)
    rows = _rows(tensors, spec)
    lengths = _lengths(tensors, spec)
    columns = [
        bytes(rows * tensor.entry_bytes) if given is None else _data(given, raw, tensor, spec)
        for given, raw, tensor in zip(tensors, raws, spec.inputs, strict=True)
    ]
    return columns, rows, lengths


# Names ----------------------------------------------------------------------------------------------------------------


def _match(request: Any, spec: ModelSpec) -> tuple[list[Any], list[bytes | None]]:
    """The request's inputs in the order of the spec, each with its raw bytes or None (typed contents)."""
    raw = request.raw_input_contents
    found: list[Any] = [None] * len(spec.inputs)
    raws: list[bytes | None] = [None] * len(spec.inputs)
    for place, tensor in enumerate(request.inputs):
        position = spec.input_index.get(tensor.name)
        if position is None:
            raise InvalidInference(f"unexpected inference input '{tensor.name}' for model '{spec.name}'")
        if found[position] is not None:
            raise InvalidInference(f"input '{tensor.name}' already exists in request")
        refuse_shared_memory(tensor)
        found[position] = tensor
        raws[position] = raw[place] if place < len(raw) else None
    if any(given is None and not tensor.optional for given, tensor in zip(found, spec.inputs, strict=True)):
        _complain_of_missing(request, spec)
    if raw:
        _check_raw_count(request, spec)
    return found, raws


def _complain_of_missing(request: Any, spec: ModelSpec) -> None:
    given = [tensor.name for tensor in request.inputs]
    required = [tensor.name for tensor in spec.inputs if not tensor.optional]
    missing = [name for name in required if name not in given]
    most = len(spec.inputs)
    expected = f"{most} inputs" if len(required) == most else f"number of inputs between {len(required)} and {most}"
    raise InvalidInference(
        f"expected {expected} but got {len(given)} inputs for model '{spec.name}'. "
        f"Got input(s) [{_quoted(given)}], but missing required input(s) [{_quoted(missing)}]. "
        "Please provide all required input(s)."
    )


def _check_raw_count(request: Any, spec: ModelSpec) -> None:
    raw = request.raw_input_contents
    for place, tensor in enumerate(request.inputs):
        if place >= len(raw):
            raise InvalidInference(
                f"unable to find data for input tensor '{tensor.name}' for model '{spec.name}' in request."
            )
        if tensor.HasField("contents") and tensor.contents.ByteSize():
            raise InvalidInference(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{spec.name}'"
            )
    if len(raw) > len(request.inputs):
        raise InvalidInference(
            f"expected {len(request.inputs)} raw_input_contents for model '{spec.name}', got {len(raw)}"
        )


def _quoted(names: list[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


# Shapes ---------------------------------------------------------------------------------------------------------------


def _rows(tensors: list[Any], spec: ModelSpec) -> int:
    """The batch dimension all inputs agree on."""
    rows = -1
    for given, tensor in zip(tensors, spec.inputs, strict=True):
        if given is None:  # optional, and left out
            continue
        if given.datatype != tensor.datatype:
            raise InvalidInference(
                f"inference input '{tensor.name}' data-type is '{given.datatype}', "
                f"but model '{spec.name}' expects '{tensor.datatype}'"
            )
        shape = given.shape
        if not shape:
            raise InvalidInference(
                f"input '{tensor.name}' has no shape but model requires batch dimension for '{spec.name}'"
            )
        if not fits(tuple(shape)[1:], tensor):
            raise InvalidInference(
                f"unexpected shape for input '{tensor.name}' for model '{spec.name}'. "
                f"Expected {_shape((-1, *tensor.dims))}, got {_shape(shape)}."
            )
        if rows not in (-1, shape[0]):
            raise InvalidInference(f"input '{tensor.name}' batch size does not match other inputs for '{spec.name}'")
        rows = shape[0]
    if rows > spec.max_rows:
        raise InvalidInference(f"inference request batch-size must be <= {spec.max_rows} for '{spec.name}'")
    if rows < 1:
        raise InvalidInference(f"inference request batch-size must be >= 1 for '{spec.name}'")
    return rows


def fits(shape: tuple[int, ...], tensor: TensorSpec) -> bool:
    """Whether a row may have this shape."""
    if len(shape) != len(tensor.dims):
        return False
    if tensor.axis:
        return shape[0] >= 0 and shape[1:] == tensor.dims[1:]
    return shape == tensor.dims


def _lengths(tensors: list[Any], spec: ModelSpec) -> list[int]:
    """Per axis, the length its tensors agree on."""
    lengths = [-1] * len(spec.axes)
    for given, position, tensor in zip(tensors, spec.input_axes, spec.inputs, strict=True):
        if position < 0:
            continue
        length = given.shape[1]
        axis = spec.axes[position]
        if lengths[position] not in (-1, length):
            raise InvalidInference(
                f"input '{tensor.name}' has {length} entries, but other inputs of axis '{axis.name}' "
                f"have {lengths[position]} for model '{spec.name}'"
            )
        if not length and axis.required:
            raise InvalidInference(
                f"input '{tensor.name}' is empty, but axis '{axis.name}' of model '{spec.name}' needs an entry"
            )
        lengths[position] = length
    return lengths


def _shape(dims: Any) -> str:
    return "[" + ",".join(str(d) for d in dims) + "]"


# Bytes ----------------------------------------------------------------------------------------------------------------


def _data(given: Any, raw: bytes | None, tensor: TensorSpec, spec: ModelSpec) -> bytes:
    data = raw_bytes(given, tensor, spec) if raw is None else raw
    if tensor.datatype == "BYTES":
        return laid_out(data, tensor, spec, given.shape[0], given.shape[1] if tensor.axis else 1)
    check_size(len(data), given, tensor, spec)
    return data


def refuse_shared_memory(tensor: Any) -> None:
    """Of an input or a requested output. Raises: Unsupported."""
    if "shared_memory_region" in tensor.parameters:
        raise Unsupported(DISABLED)
