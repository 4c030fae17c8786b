"""What a module must hold to be served. A law returns what it measured, or raises LawBroken with one sentence.

Each docstring says what goes wrong in production where the law is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from headrace.serving import rows as made
from headrace.serving import warmup
from headrace.serving.runner import Columns, Unpacked
from headrace.serving.trial import LawBroken, Trial, counted, described
from headrace.serving.warmup import Warmed
from headrace_models import spec as disk
from headrace_models.agreement import Distance, worst_of
from headrace_models.tensors import to_array
from headrace_models.values import numbers

NOISE_S: Final = 0.002
"""A run that loses its core for a moment, on a machine that others use too, is not slower for it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, in words and in figures; the warning is not empty where somebody should look."""

    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""


def declared_shapes(trial: Trial) -> Measured:
    """An answer of another size is cut up wrongly; a module that squeezes does it for a batch of one alone."""
    for batch in (trial.golden, trial.rows(0)):
        trial.answer(batch)
    outputs = ", ".join(f"{t.name} {t.datatype} {list(t.dims)}" for t in trial.spec.outputs)
    return Measured(f"{outputs}, in a batch of 1 and of {trial.golden.rows}")


def padding(trial: Trial) -> Measured:
    """A row would be scored by the length of whoever happens to ride along."""
    if not trial.spec.axes:
        return Measured("no axis, so nothing is padded")
    measured = [
        _within(trial.distance(batch, [row]), row, f"beside the {name} row it may meet")
        for row in range(trial.golden.rows)
        for name, batch in trial.company(row)
    ]
    return _agreed(measured, "beside the longest and the shortest row") if measured else Measured("no row has company")


def batch_mates(trial: Trial) -> Measured:
    """A row would be scored by its neighbours, its place, or the size of its batch."""
    measured = []
    for name, order, batch in trial.gatherings():
        distance = trial.distance(batch, order)
        measured.append(_within(distance, order[distance.row], f"in a batch of {batch.rows} ({name})"))
    return _agreed(measured, "together, reversed, repeated, beside the longest row")


def limits(trial: Trial) -> Measured:
    """The largest batches that the spec allows would fail under load, and at no other time."""
    texts, figures = [], {}
    for name, batch in trial.full_batches():
        trial.answer(batch)
        took_ms = _took_ms(trial, batch)
        texts.append(f"{described(batch)} in {took_ms:.1f} ms")
        figures[name] = {"rows": batch.rows, "tokens": made.tokens(batch), "ms": took_ms}
    return Measured("; ".join(texts), figures)


def empty_rows(trial: Trial) -> Measured:
    """A new customer, without a single event on an axis that is not required, would get an error or NaN."""
    optional = [axis.name for axis in trial.spec.axes if not axis.required]
    for axes in _axes_left_out(trial.spec):
        _answer_without(trial, axes)
    return Measured(f"answered without {', '.join(optional)}" if optional else "no axis may be empty")


def warm_up(trial: Trial) -> Measured:
    """Whatever is slow the first time, and no shape has run, some caller waits for."""
    warmed = warmup.warm_up(trial.runner, trial.spec)
    figures = {
        _shape(trial.spec, one): {"first_ms": round(one.runs_s[0] * 1e3, 3), "third_ms": round(one.runs_s[2] * 1e3, 3)}
        for one in warmed
    }
    text = ", ".join(f"{name} {ms['first_ms']:.1f} → {ms['third_ms']:.1f} ms" for name, ms in figures.items())
    slower = [_shape(trial.spec, one) for one in warmed if min(one.runs_s[1:]) > one.runs_s[0] + NOISE_S]
    warnings = [f"{shape} got slower after the first run" for shape in slower]
    return Measured(text, figures, "; ".join(warnings + _never_warmed(trial.spec)))


def finite(trial: Trial) -> Measured:
    """The row would fail with INTERNAL: an answer that is not finite is never sent."""
    _assert_finite(trial, trial.alone, "golden rows alone")
    _assert_finite(trial, trial.answer(trial.golden), "golden rows together")
    for _, batch in trial.full_batches():
        _assert_finite(trial, trial.answer(batch), described(batch))
    return Measured("golden rows and the largest batches")


def inputs_untouched(trial: Trial) -> Measured:
    """A column is the memory of a received message: who writes to it changes what a second try reads."""
    held: dict[str, tuple[torch.Tensor, bytes]] = {}

    def remember(_: object, arguments: tuple[dict[str, torch.Tensor], ...]) -> None:
        for kind, tensors in zip(("input", "lengths"), arguments, strict=True):
            held.update({f"{kind}.{name}": (tensor, _bytes(tensor)) for name, tensor in tensors.items()})

    hook = trial.module.register_forward_pre_hook(remember)
    try:
        trial.answer(trial.golden)
    finally:
        hook.remove()
    if changed := [name for name, (tensor, before) in held.items() if _bytes(tensor) != before]:
        raise LawBroken(f"the module writes to {changed[0]}")
    return Measured(f"{len(held)} tensors are as they were")


def determinism(trial: Trial) -> Measured:
    """A retry would answer something else. To the bit on a CPU; sums of a GPU may come in another order."""
    first, second = trial.answer(trial.golden), trial.answer(trial.golden)
    if all(np.array_equal(first[name], second[name], equal_nan=True) for name in first):
        return Measured("two runs are equal")
    distance = trial.between(second, first)
    if trial.runner.device == "cpu" or not distance.within:
        raise LawBroken(f"output '{distance.output}' of the same batch is {distance.worst:g} away in a second run")
    return Measured(f"two runs differ by {distance.worst:.1g}", {"worst": distance.worst})


def extras(trial: Trial) -> Measured:
    """An explanation would depend on who else asks for one, or change the very score that it explains."""
    if not trial.spec.extras:
        return Measured("none are declared")
    before, rows = trial.answer(trial.golden), range(trial.golden.rows)
    together = _agreed([_extras_of(trial, rows), _extras_of(trial, rows[::2])], "all and some rows asking")
    for axes in _axes_left_out(trial.spec):
        nothing = made.emptied(trial.rows(0), trial.spec, axes)
        found = trial.answer(made.asking(nothing, [0]))
        _assert_finite(trial, found, f"a row without an event on {' and '.join(axes)}")
    most = trial.most_asking()
    _assert_finite(trial, trial.answer(most), described(most))
    after = trial.between(trial.answer(trial.golden), before)
    if not after.within:
        raise LawBroken(f"output '{after.output}' is {after.worst:g} away once extras were asked for")
    took_ms = _took_ms(trial, most)
    return Measured(f"{together.text}; {described(most)} in {took_ms:.1f} ms", {**together.figures, "ms": took_ms})


LAWS: Final[dict[str, Callable[[Trial], Measured]]] = {
    "declared shapes": declared_shapes,
    "padding": padding,
    "batch-mates": batch_mates,
    "limits": limits,
    "empty rows": empty_rows,
    "warm-up": warm_up,
    "finite": finite,
    "inputs untouched": inputs_untouched,
    "determinism": determinism,
    "extras": extras,
}


def _within(distance: Distance, row: int, where: str) -> Distance:
    if not distance.within:
        raise LawBroken(
            f"output '{distance.output}' of golden row {row} is {distance.worst:g} away from its answer alone {where}"
            f" (tolerance {distance.tolerance:g})"
        )
    return distance


def _agreed(measured: list[Distance], where: str) -> Measured:
    worst = worst_of(measured)
    figures = {"output": worst.output, "worst": worst.worst, "tolerance": worst.tolerance}
    return Measured(f"{where}: at most {worst.worst:.1g} away (tolerance {worst.tolerance:g})", figures)


def _extras_of(trial: Trial, asking: Sequence[int]) -> Distance:
    """How far the extras of the golden rows together are from those alone; a row that does not ask has zeros."""
    found = trial.answer(made.asking(trial.golden, asking))
    _assert_finite(trial, found, f"golden rows, {len(asking)} of them asking for extras")
    asks = np.isin(np.arange(trial.golden.rows), asking)
    expected = {name: values.copy() for name, values in trial.extras_alone.items()}
    for values in expected.values():
        values[~asks] = 0
    distance = trial.between_extras(found, expected)
    return _within(distance, distance.row, f"in a batch of which {len(asking)} of {trial.golden.rows} rows ask for it")


def _took_ms(trial: Trial, batch: Unpacked) -> float:
    trial.runner.run(made.packed(batch, trial.spec), 0.0)
    passed = trial.runner.stopwatch.read()
    return round((passed.fetched_ns - passed.unpacked_ns) / 1e6, 3)


def _axes_left_out(spec: disk.ModelSpec) -> list[tuple[str, ...]]:
    """Each axis that may be empty, and all of them."""
    optional = [axis.name for axis in spec.axes if not axis.required]
    return [*((axis,) for axis in optional), tuple(optional)]


def _answer_without(trial: Trial, axes: tuple[str, ...]) -> None:
    what = f"a row without an event on {' and '.join(axes)}"
    nothing = made.emptied(trial.rows(0), trial.spec, axes)
    alone = trial.answer(nothing)
    _assert_finite(trial, alone, what)
    mixed = trial.answer(made.joined([nothing, trial.rows(0)]))
    distance = trial.between({name: values[:1] for name, values in mixed.items()}, alone)
    if not distance.within:
        raise LawBroken(f"output '{distance.output}' of {what} is {distance.worst:g} away beside another row")
    trial.answer(made.emptied(trial.golden, trial.spec, axes))


def _assert_finite(trial: Trial, answers: Columns, what: str) -> None:
    for tensor in trial.spec.outputs + trial.spec.extras:
        if tensor.name in answers and not np.isfinite(numbers(answers[tensor.name], tensor.datatype)).all():
            raise LawBroken(f"output '{tensor.name}' is not finite: {what}")


def _shape(spec: disk.ModelSpec, one: Warmed) -> str:
    lengths = "/".join(str(one.shape.length(axis)) for axis in spec.axes)
    return f"{one.shape.rows}×{lengths}" if lengths else counted(one.shape.rows, "row")


def _never_warmed(spec: disk.ModelSpec) -> list[str]:
    """What callers will send that no warm-up shape is like."""
    missing = [] if any(shape.rows == 1 for shape in spec.warmup) else ["no shape has a single row"]
    return missing + [
        f"no shape has '{axis.name}' at its cap, {axis.cap}"
        for axis in spec.axes
        if max(shape.length(axis) for shape in spec.warmup) < axis.cap
    ]


def _bytes(tensor: torch.Tensor) -> bytes:
    return to_array(tensor, "BF16" if tensor.dtype is torch.bfloat16 else "").tobytes()
