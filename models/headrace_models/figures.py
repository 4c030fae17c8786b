"""The figures that judge a model. A row may stand for several: blocks of mostly legitimate rows are thinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers and what became of them: one entry a row."""

    p: npt.NDArray[Any]
    """Any ranking; a probability where calibration is asked for."""
    positive: Mask
    weight: Floats
    """How many rows of traffic each stands for."""

    def take(self, rows: npt.NDArray[Any]) -> Judged:
        return Judged(self.p[rows], self.positive[rows], self.weight[rows])


def auc(of: Judged) -> float:
    """Area under the ROC curve; ties count half."""
    _, rank = np.unique(of.p, return_inverse=True)
    positives = np.bincount(rank, of.weight * of.positive)
    negatives = np.bincount(rank, of.weight * ~of.positive)
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (positives.sum() * negatives.sum()))


def average_precision(of: Judged) -> float:
    """Mean precision at each positive, in order of descending `p`; ties share the precision at their end."""
    order = np.argsort(-of.p, kind="stable")
    hits, seen = np.cumsum((of.weight * of.positive)[order]), np.cumsum(of.weight[order])
    ends = np.flatnonzero(np.append(np.diff(of.p[order]) != 0, True))
    precision = hits[ends] / np.maximum(seen[ends], 1e-12)
    return float(np.sum(np.diff(hits[ends] / hits[-1], prepend=0.0) * precision))


def precision_at(of: Judged, alerts: float) -> float:
    """Share of positives among the `alerts` rows of traffic with the highest `p`."""
    order = np.argsort(-of.p, kind="stable")
    seen = np.cumsum(of.weight[order])
    counted = np.clip(alerts - (seen - of.weight[order]), 0, of.weight[order])  # the last row may count in part
    return float((counted * of.positive[order]).sum() / counted.sum())


def recall_at_false_positives(of: Judged, rate: float) -> float:
    """Share of the positives above the threshold that alarms on `rate` of the negatives."""
    negatives, weight = of.p[~of.positive], of.weight[~of.positive]
    order = np.argsort(-negatives, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    threshold = negatives[order][min(int(np.searchsorted(share, rate)), len(order) - 1)]
    caught = of.weight * of.positive * (of.p > threshold)
    return float(caught.sum() / (of.weight * of.positive).sum())


def reliability(of: Judged, bins: int = 15) -> npt.NDArray[np.float64]:
    """[bins, 3]: share of traffic, mean `p` and share of positives, by bins of equal traffic."""
    order = np.argsort(of.p, kind="stable")
    share = (np.cumsum(of.weight[order]) - of.weight[order] / 2) / of.weight.sum()
    place = np.minimum((share * bins).astype(int), bins - 1)
    weight = np.bincount(place, of.weight[order], bins)
    mean = np.bincount(place, (of.weight * of.p)[order], bins) / np.maximum(weight, 1e-12)
    found = np.bincount(place, (of.weight * of.positive)[order], bins) / np.maximum(weight, 1e-12)
    return np.stack([weight / weight.sum(), mean, found], 1)


def calibration_error(of: Judged, bins: int = 15) -> float:
    """Expected calibration error over bins of equal traffic."""
    table = reliability(of, bins)
    return float((table[:, 0] * np.abs(table[:, 1] - table[:, 2])).sum())


def brier(of: Judged) -> float:
    """Mean squared distance of `p` from the truth."""
    return float(np.average((of.p - of.positive) ** 2, weights=of.weight))


def bootstrap(of: Judged, group: npt.NDArray[np.int64], *, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """95 % interval of average precision, groups (cards, not rows) drawn with replacement."""
    rng = np.random.default_rng(seed)
    groups, which = np.unique(group, return_inverse=True)
    found = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups))
        drawn = Judged(of.p, of.positive, of.weight * times[which])
        if (drawn.weight * drawn.positive).any():  # few positives: a draw may have none of them
            found.append(average_precision(drawn))
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))
