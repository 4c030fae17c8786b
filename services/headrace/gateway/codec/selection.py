"""Which outputs a request asks for, and in which form. Called where a request names any; most do not."""

from __future__ import annotations

from typing import Any, NamedTuple

from headrace.core.tensors import ModelSpec
from headrace.errors import InvalidInference
from headrace.gateway.codec.classification import wanted
from headrace.gateway.codec.complaints import refuse_shared_memory


class Selected(NamedTuple):
    """What is answered, in the caller's order."""

    outputs: tuple[int, ...]
    """Positions in the spec's `answers`."""
    classes: tuple[int, ...] = ()
    """As `Inference.classes`."""


def selected(request: Any, spec: ModelSpec) -> Selected:
    """The outputs it names. Raises: InvalidInference, Unsupported."""
    positions: list[int] = []
    classes: list[int] = []
    for asked in request.outputs:
        position = spec.output_index.get(asked.name)
        if position is None:
            raise InvalidInference(f"unexpected inference output '{asked.name}' for model '{spec.name}'")
        if position in positions:
            raise InvalidInference(f"output '{asked.name}' already exists in request")
        positions.append(position)
        if asked.parameters:
            refuse_shared_memory(asked)
            classes += [0] * (len(positions) - 1 - len(classes))
            classes.append(wanted(asked, spec.answers[position]))
    if not any(classes):
        return Selected(tuple(positions))
    return Selected(tuple(positions), tuple(classes + [0] * (len(positions) - len(classes))))
