"""Answers of a model → signals, with the level that the cut points give a score. Called by the risk servicer."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.core.inference import Answer
from headrace.core.tensors import ModelSpec, Signal
from headrace.errors import BrokenContract
from headrace.v1 import risk_pb2

MAX_SCORE: Final = 99
LEVELS: Final = (
    risk_pb2.RISK_LEVEL_LOW,
    risk_pb2.RISK_LEVEL_NORMAL,
    risk_pb2.RISK_LEVEL_ELEVATED,
    risk_pb2.RISK_LEVEL_HIGHEST,
)

FACTORS: Final = "top_factors"
"""The extra that explains a score: what hiding each of its labels would take from the log odds."""
MAX_FACTORS: Final = 5
"""How many are told: those that raise the score most."""

Cuts = tuple[int, int, int]
"""Scores at which normal, elevated and highest begin, ascending."""


def level_of(score: int, cuts: Cuts) -> risk_pb2.RiskLevel:
    """The band a score falls into; a score on a cut point belongs to the band that begins there."""
    return LEVELS[bisect_right(cuts, score)]


def signals_of(spec: ModelSpec, answer: Answer, cuts: Cuts, *, explain: bool = False) -> list[risk_pb2.Signal]:
    """One signal a row, with its reasons where they were asked for.

    Raises: BrokenContract when the answer is not a probability and a score from 0 to 99.
    """
    p, score = _output(spec, answer, "p"), _output(spec, answer, "score")
    if not (((p >= 0) & (p <= 1)).all() and ((score >= 0) & (score <= MAX_SCORE)).all()):
        raise BrokenContract("the model's answer is not a probability and a score")
    factors = _factors(spec, answer) if explain else [[]] * len(p)
    now = Timestamp()
    now.FromNanoseconds(time.time_ns())
    return [
        risk_pb2.Signal(
            name=_signal(spec).name,
            evaluated_at=now,
            probability=probability,
            score=points,
            level=level_of(points, cuts),
            model=spec.name,
            model_version=spec.version,
            calibration_version=_signal(spec).calibration_version,
            top_factors=factors[row],
        )
        for row, (probability, points) in enumerate(zip(p.tolist(), score.tolist(), strict=True))
    ]


def not_assessed(spec: ModelSpec, reason: str) -> risk_pb2.Signal:
    """What is said of a payment that no model was asked about."""
    return risk_pb2.Signal(
        name=_signal(spec).name,
        level=risk_pb2.RISK_LEVEL_NOT_ASSESSED,
        model=spec.name,
        model_version=spec.version,
        calibration_version=_signal(spec).calibration_version,
        degraded_reason=reason,
    )


def degrade(signals: Sequence[risk_pb2.Signal], why: str, *, modelled: bool) -> None:
    """Say of each that it is less than a caller may expect. Not `modelled`: no model ran, and none is named as if."""
    for signal in signals:
        signal.degraded_reason = why
        if not modelled:
            signal.ClearField("evaluated_at")
            signal.model_version = signal.calibration_version = ""


def _factors(spec: ModelSpec, answer: Answer) -> list[list[risk_pb2.Factor]]:
    """Of each row, what raises its score, most first."""
    labels = spec.answers[spec.output_index[FACTORS]].labels
    rows = _output(spec, answer, FACTORS).reshape(-1, len(labels)).tolist()
    ranked = [sorted(zip(labels, row, strict=True), key=lambda factor: -factor[1])[:MAX_FACTORS] for row in rows]
    return [[risk_pb2.Factor(name=name, log_odds=by) for name, by in row if by > 0] for row in ranked]


def _output(spec: ModelSpec, answer: Answer, name: str) -> npt.NDArray[Any]:
    position = spec.output_index[name]
    return spec.answers[position].numbers(answer.columns[position])


def _signal(spec: ModelSpec) -> Signal:
    assert spec.signal is not None, "This is a bug."  # who has none was refused before it was asked
    return spec.signal
