"""One question put to somebody else, and an answer without asking anybody. Pure: specs and bytes.

What the other one is asked is what its own callers could have asked: same columns, same outputs, or it is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Final

import numpy as np

from headrace.core.adapting import adapted
from headrace.core.inference import Inference
from headrace.core.tensors import ModelSpec, TensorSpec

Numbers = float | Sequence[float]
RANGES: Final = {"p": (0.0, 1.0), "score": (0.0, 99.0)}
"""What a signal may say, by output; anything else is told to callers as an error."""


def restated(inference: Inference, spec: ModelSpec, deadline: float) -> Inference | None:
    """The same question to `spec`'s version, until `deadline`; None = it can't be asked that.

    It can where it has every input it needs, every output that was asked for, and the same signal if there is one. It
    is in no comparison: whoever compares has seen how the version in charge did.
    """
    asked = adapted(inference, spec, deadline)
    if asked is None or not _same_signal(inference.spec, spec):
        return None
    wanted = _wanted(inference)
    places = [_place(tensor, spec) for tensor in wanted]
    if -1 in places:
        return None
    explains = max(places, default=-1) >= len(spec.outputs)
    return replace(
        asked,
        outputs=tuple(places),
        wants_extras=explains,
        tokens=asked.tokens * (1 + spec.extras_rows * explains),
        truncated=_truncated(inference, asked),
        compared=False,
    )


def prior_row(spec: ModelSpec, prior: Mapping[str, Numbers]) -> list[bytes]:
    """One row of every output of `spec`, as `prior` says. Raises: ValueError, a sentence about what does not fit."""
    if unknown := sorted(prior.keys() - {tensor.name for tensor in spec.outputs}):
        raise ValueError(f"the prior names '{unknown[0]}', which is no output of '{spec.name}' version {spec.version}")
    return [_constant(spec, tensor, prior) for tensor in spec.outputs]


def only_outputs(inference: Inference) -> bool:
    """Whether a prior says all that was asked for: it has no extras."""
    return not inference.wants_extras


# What is asked for ----------------------------------------------------------------------------------------------------


def _wanted(inference: Inference) -> tuple[TensorSpec, ...]:
    """What the request names, or all outputs (and extras) where it names none, as payments do."""
    spec = inference.spec
    if inference.outputs:
        return tuple(spec.answers[place] for place in inference.outputs)
    return spec.answers if inference.wants_extras else spec.outputs


def _place(tensor: TensorSpec, spec: ModelSpec) -> int:
    """Where `spec` answers the same; -1 = it does not."""
    place = spec.output_index.get(tensor.name, -1)
    if place < 0:
        return -1
    other = spec.answers[place]
    return place if (other.datatype, other.dims, other.labels) == (tensor.datatype, tensor.dims, tensor.labels) else -1


def _same_signal(given: ModelSpec, other: ModelSpec) -> bool:
    return given.signal is None or (other.signal is not None and other.signal.name == given.signal.name)


def _truncated(given: Inference, asked: Inference) -> dict[str, int]:
    """Entries that were dropped, those of a smaller cap too; where rows differ, what the first one lost is told."""
    found = dict(given.truncated)
    for axis, length in zip(asked.spec.axes, asked.lengths, strict=True):
        before = given.spec.axis_index.get(axis.name)
        if before is not None and given.lengths[before] > length:
            found[axis.name] = found.get(axis.name, 0) + given.lengths[before] - length
    return found


# Priors ---------------------------------------------------------------------------------------------------------------


def _constant(spec: ModelSpec, tensor: TensorSpec, prior: Mapping[str, Numbers]) -> bytes:
    """Raises: ValueError."""
    where = f"output '{tensor.name}' of '{spec.name}' version {spec.version}"
    if tensor.name not in prior:
        raise ValueError(f"the prior does not say {where}")
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"{where} is ragged: no prior fits")
    given = prior[tensor.name]
    values = [float(given)] if isinstance(given, int | float) else [float(value) for value in given]
    if len(values) != prod(tensor.dims):
        raise ValueError(f"{where} has {prod(tensor.dims)} numbers a row, the prior {len(values)}")
    if spec.signal is not None and tensor.name in RANGES:
        low, high = RANGES[tensor.name]
        if not all(low <= value <= high for value in values):
            raise ValueError(f"{where} is a number from {low:g} to {high:g}, the prior is not")
    return _encoded(values, tensor, where).tobytes()


def _encoded(values: list[float], tensor: TensorSpec, where: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Raises: ValueError for a number that the datatype does not have."""
    if tensor.datatype in ("BF16", "BYTES"):  # numpy's type of such a column is that of its bits
        raise ValueError(f"{where} is {tensor.datatype}: no prior of numbers fits")
    dtype = tensor.dtype
    with np.errstate(all="ignore"):
        found = np.array(values).astype(dtype)
        back = found.astype(np.float64)
    exact = dtype.kind in "iub"
    if not np.isfinite(back).all() or (exact and not np.array_equal(back, values)):
        raise ValueError(f"{where} is {tensor.datatype}, the prior does not fit into it")
    return found
