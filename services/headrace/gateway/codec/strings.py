"""BYTES: strings of any length on the protocol's wire, of one width inside.

On the wire each is its length (4 bytes, little-endian) and its bytes; in a column zeros follow, up to the width that
its spec declares. So columns are joined and cut like those of numbers, and nothing behind the codec knows of strings.
Source of the sentences about malformed ones: Triton's core, src/infer_request.cc, `ValidateBytesInputs`.
"""

from __future__ import annotations

from math import prod
from struct import Struct
from typing import Final, NoReturn

from headrace.core.tensors import LENGTH_BYTES, ModelSpec, TensorSpec
from headrace.errors import BrokenContract, InvalidInference

LENGTH: Final = Struct("<I").unpack_from


def laid_out(raw: bytes, tensor: TensorSpec, spec: ModelSpec, rows: int, length: int) -> bytes:
    """The column of an input with `rows` rows, of `length` entries each (1 where it is not ragged).

    A row longer than the cap keeps its newest entries: cut here, before the others take their width in memory.
    Raises: InvalidInference, naming the tensor; never the string.
    """
    each, width, size = prod(tensor.entry_dims), tensor.element_bytes, len(raw)
    cap = spec.axes[spec.axis_index[tensor.axis]].cap if tensor.axis else length
    dropped = max(0, length - cap) * each
    parts: list[bytes] = []
    end = 0
    for _ in range(rows):
        for place in range(length * each):
            start = end
            if size - start < LENGTH_BYTES:
                _complain_of_count(tensor, spec, rows * length * each, raw, start)
            end = start + LENGTH_BYTES + LENGTH(raw, start)[0]
            if end > size or end - start > width:
                _complain_of_string(tensor, spec, end - start - LENGTH_BYTES, size - start - LENGTH_BYTES)
            if place >= dropped:
                parts.append(raw[start:end].ljust(width, b"\0"))
    if end != size:
        _complain_of_count(tensor, spec, rows * length * each, raw, end)
    return b"".join(parts)


def written(column: bytes, tensor: TensorSpec) -> bytes:
    """A column of an output as the protocol has it. Raises: BrokenContract for a string longer than the spec allows."""
    width, longest = tensor.element_bytes, tensor.max_bytes
    parts: list[bytes] = []
    for start in range(0, len(column), width):
        length = LENGTH(column, start)[0]
        if length > longest:
            raise BrokenContract("the model's answer has a string that is longer than its spec promises")
        parts.append(column[start : start + LENGTH_BYTES + length])
    return b"".join(parts)


def _complain_of_count(tensor: TensorSpec, spec: ModelSpec, wanted: int, raw: bytes, at: int) -> NoReturn:
    """What is wrong where another string should begin, or the data should end."""
    where, left = f"for inference input '{tensor.name}' for model '{spec.name}'", len(raw) - at
    if 0 < left < LENGTH_BYTES:
        raise InvalidInference(
            f"incomplete string length indicator {where}, expecting {LENGTH_BYTES} bytes but only {left} bytes "
            "available. Please make sure the string length indicator is in one buffer."
        )
    if left:
        raise InvalidInference(f"unexpected number of string elements {wanted + 1} {where}, expecting {wanted}")
    raise InvalidInference(f"expected {wanted} string elements {where}, got {_count(raw)}")


def _complain_of_string(tensor: TensorSpec, spec: ModelSpec, length: int, there: int) -> NoReturn:
    if length > there:
        raise InvalidInference(
            f"incomplete string data for inference input '{tensor.name}' for model '{spec.name}', expecting string of "
            f"length {length} but only {there} bytes available"
        )
    raise InvalidInference(
        f"input '{tensor.name}' for model '{spec.name}' has a string of {length} bytes, but takes {tensor.max_bytes} "
        "at most"
    )


def _count(raw: bytes) -> int:
    """How many strings there are, whole ones."""
    count = at = 0
    while len(raw) - at >= LENGTH_BYTES and (at := at + LENGTH_BYTES + LENGTH(raw, at)[0]) <= len(raw):
        count += 1
    return count
