"""What matured outcomes say of both sides: whether the fraud ranks first, and whether probabilities are what they say.

Arrays in, a message out. Which labels have matured is the caller's to know: a label that is only there because it was
early is no sample of anything. The bootstrap's interval is for one look, not for every one, and is no part of an
experiment's alpha.

Average precision is the sum over thresholds of (gain in recall) x precision, ties as one threshold, as
`sklearn.metrics.average_precision_score` has it. Recall at one per cent false positives is read off the ROC curve,
straight between two of its points: whoever has many equal scores blocks some of them. Calibration: the mean distance of
`p` from the share of fraud, over 15 bins of equal traffic.
**Source** Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; clusters (entities) are drawn, both sides on
the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.v1 import experiments_pb2 as pb

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

DRAWS: Final = 300
BLOCK: Final = 2_000_000
"""Weights that are held at once: draws x labels."""
MAX_FALSE_POSITIVES: Final = 0.01
BINS: Final = 15


def labelled(  # noqa: PLR0913 - two sides, two outputs
    incumbent: Floats,
    challenger: Floats,
    fraud: Mask,
    entity: npt.NDArray[np.uint64],
    p_incumbent: Floats | None = None,
    p_challenger: Floats | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> pb.LabelledFigures:
    """Quality of both sides, and the challenger's gains by a paired bootstrap over entities: one seed, one answer.

    **Shapes** all [labels]; entity 0: none, a cluster of its own. Without both kinds of outcome, counts alone are told.
    **Raises** ValueError: arrays of different lengths, a value that is not finite.
    """
    fraud = np.asarray(fraud, bool)
    _check(len(fraud), incumbent=incumbent, challenger=challenger, entity=entity)
    found = pb.LabelledFigures(labels=len(fraud), positives=int(fraud.sum()))
    if not 0 < found.positives < found.labels:
        return found
    sides = _Ranking.of(incumbent, fraud), _Ranking.of(challenger, fraud)
    ones = np.ones((1, len(fraud)))
    for quality, side, p in zip((found.incumbent, found.challenger), sides, (p_incumbent, p_challenger), strict=True):
        precision, recall = side.measure(ones)
        quality.average_precision, quality.recall_at_1_percent_fpr = precision[0], recall[0]
        if p is not None:
            _check(len(fraud), p=p)
            quality.calibration_error = calibration_error(p, fraud)
    gains = _gains(sides, _clusters(entity), seed)
    for interval, gain in zip((found.average_precision_gain, found.recall_gain), gains, strict=True):
        interval.lower, interval.upper = np.quantile(gain, [alpha / 2, 1 - alpha / 2])
    return found


def calibration_error(p: Floats, fraud: Mask) -> float:
    """Expected calibration error over `BINS` bins of equal traffic."""
    order = np.argsort(p, kind="stable")
    place = np.arange(len(p)) * BINS // len(p)
    off = np.bincount(place, np.asarray(p, float)[order] - fraud[order], BINS)
    return float(np.abs(off).sum() / len(p))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One side's labels, the highest value first."""

    order: Ints
    fraud: Mask
    ends: Ints
    """Of each run of equal values, the last."""

    @classmethod
    def of(cls, values: Floats, fraud: Mask) -> _Ranking:
        values = np.asarray(values, float)
        order = np.argsort(-values, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
        return cls(order, fraud[order], ends)

    def measure(self, weights: Floats) -> tuple[Floats, Floats]:
        """Average precision and recall of each draw. **Shapes** [draws, labels] to [draws] twice; NaN without fraud."""
        weights = weights[:, self.order]
        seen = np.cumsum(weights, 1)[:, self.ends]
        hits = np.cumsum(weights * self.fraud, 1)[:, self.ends]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = hits / hits[:, -1:]
            precision = (np.diff(recall, axis=1, prepend=0.0) * hits / np.maximum(seen, 1e-12)).sum(1)
            alarms = (seen - hits) / (seen - hits)[:, -1:]
        return precision, np.array([_read_off(*curve) for curve in zip(alarms, recall, strict=True)])


def _read_off(alarms: Floats, recall: Floats) -> float:
    """Where the ROC curve passes `MAX_FALSE_POSITIVES`: at its last point there, or straight between two."""
    after = int(np.searchsorted(alarms, MAX_FALSE_POSITIVES, side="right"))
    if after == len(alarms):
        return float(recall[-1])
    x, y = (alarms[after - 1], recall[after - 1]) if after else (0.0, 0.0)
    return float(y + (recall[after] - y) * (MAX_FALSE_POSITIVES - x) / (alarms[after] - x))


def _gains(sides: tuple[_Ranking, _Ranking], cluster: Ints, seed: int) -> tuple[Floats, Floats]:
    """Challenger's less incumbent's average precision and recall, a draw each."""
    rng = np.random.default_rng(seed)
    clusters, gains = int(cluster.max()) + 1, []
    for start in range(0, DRAWS, block := max(1, BLOCK // len(cluster))):
        draws = min(block, DRAWS - start)
        times = np.stack([np.bincount(rng.integers(0, clusters, clusters), minlength=clusters) for _ in range(draws)])
        weights = times[:, cluster].astype(float)
        incumbent, challenger = (np.stack(side.measure(weights)) for side in sides)
        gains.append(challenger - incumbent)
    precision, recall = np.concatenate(gains, 1)
    of = np.isfinite(precision) & np.isfinite(recall)  # few frauds: a draw may have none of them
    return precision[of], recall[of]


def _clusters(entity: npt.NDArray[np.uint64]) -> Ints:
    """0, 1, ... by entity."""
    entity = np.asarray(entity)
    names, which = np.unique(entity, return_inverse=True)
    alone = entity == 0
    which = np.where(alone, len(names) + np.cumsum(alone), which)
    found: Ints = np.unique(which, return_inverse=True)[1].astype(np.int64)
    return found


def _check(n: int, **arrays: npt.NDArray[Any]) -> None:
    for name, array in arrays.items():
        if len(array) != n:
            raise ValueError(f"{name}: {len(array)} entries for {n} labels")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: not finite")
