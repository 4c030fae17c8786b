"""What a request's parameters say of its sequence, with Triton's sentences. Asked by the codec, for every model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from headrace.core.inference import SequenceStep
from headrace.errors import InvalidInference

ID, START, END = "sequence_id", "sequence_start", "sequence_end"
PARAMETERS: Final = frozenset({ID, START, END})
MAX_BYTES: Final = 128
"""Of a name; Triton's bound."""


def read(name: str, kind: str | None, value: Any) -> int | str | bool:
    """One of these parameters. Raises: InvalidInference."""
    if name != ID:
        if kind != "bool_param":
            raise InvalidInference(f"invalid value type for '{name}' parameter, expected bool_param.")
        return bool(value.bool_param)
    if kind == "int64_param":
        return int(value.int64_param) % 2**64  # Triton's are unsigned
    if kind != "string_param":
        raise InvalidInference(f"invalid value type for '{ID}' parameter, expected int64_param or string_param.")
    text = str(value.string_param)
    if len(text.encode()) > MAX_BYTES:
        raise InvalidInference(f"invalid value for '{ID}' parameter, expected at most {MAX_BYTES} bytes.")
    return text


def step(found: Mapping[str, Any]) -> SequenceStep | None:
    """Of the parameters that were there; None = 0, or no name: the request is part of no sequence."""
    name = found.get(ID)
    return SequenceStep(name, found.get(START, False), found.get(END, False)) if name else None
