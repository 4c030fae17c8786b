"""From a network's logit to a probability people can set thresholds on, and the figures that judge it.

`p` = sigmoid(a·logit + b), fitted on a later block of time than training (Platt), which also undoes the thinning
of legitimate rows in training. `score` = where `p` stands in reference traffic: 25 is the top 10 %, 50 the top
1 %, 75 the top 0.1 %; a threshold on it keeps its meaning when the model is refreshed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SCORES = 100
DECADES = 4.0
"""The score spans four decades of rarity: 99 is rarer than one in ten thousand."""

Floats = npt.NDArray[np.float64]


def to_probability(logit_B: Tensor, calibration: Tensor) -> Tensor:
    return torch.sigmoid(calibration[0] * logit_B + calibration[1])


def to_score(p_B: Tensor, edges: Tensor) -> Tensor:
    """int32 [B] in 0..99: how many of the 99 `edges` each `p` has reached."""
    return torch.searchsorted(edges, p_B.contiguous(), right=True).to(torch.int32)


def fit_platt(logit: Floats, label: Floats, *, beta: float) -> Floats:
    """(a, b) by damped Newton steps, from the prior correction ln(beta) on; `beta` = share of legitimate rows kept.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    design = np.stack([logit, np.ones_like(logit)], 1)
    ab = np.array([1.0, np.log(beta)])
    loss = _log_loss(design @ ab, label)
    for _ in range(100):
        p = sigmoid(design @ ab)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (p - label))
        # A full step may overshoot where the sigmoid is flat: halve it until the loss falls.
        while (found := _log_loss(design @ (ab - step), label)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        ab, loss = ab - step, min(found, loss)
        if np.abs(step).max() < 1e-9:
            break
    return ab


def sigmoid(logit: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -logit))


def _log_loss(logit: Floats, label: Floats) -> float:
    return float(np.logaddexp(0, np.where(label > 0, -logit, logit)).sum())


def score_edges(p: Floats) -> Floats:
    """The 99 probabilities at which the score of reference traffic `p` rises by one, ascending."""
    rarity = 10 ** (-DECADES * np.arange(1, SCORES) / (SCORES - 1))
    return np.quantile(p, 1 - rarity, method="higher")


def auc(p: Floats, label: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half."""
    ranks = np.unique(p, return_inverse=True, return_counts=True)
    ends = np.cumsum(ranks[2])
    mid = (ends - (ranks[2] - 1) / 2)[ranks[1]]
    positives = int(label.sum())
    negatives = len(label) - positives
    return float((mid[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(p: Floats, label: npt.NDArray[np.bool_]) -> float:
    """Mean precision at each fraud, in order of descending `p`; ties share the precision at their end."""
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(label[order])
    last_of_tie = np.append(np.diff(p[order]) != 0, True)
    ends = np.flatnonzero(last_of_tie)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_at(p: Floats, label: npt.NDArray[np.bool_], share: float) -> tuple[float, float]:
    """(precision, share of all fraud caught) among the `share` of rows with the highest `p`."""
    count = max(1, int(len(p) * share))
    top = np.argsort(-p, kind="stable")[:count]
    return float(label[top].mean()), float(label[top].sum() / max(1, label.sum()))


def recall_at_false_positives(p: Floats, label: npt.NDArray[np.bool_], rate: float) -> float:
    """Share of fraud above the threshold that alarms on `rate` of the legitimate rows."""
    return float((p[label] > np.quantile(p[~label], 1 - rate)).mean())


def calibration_error(p: Floats, label: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over bins of equal count."""
    parts = np.array_split(np.argsort(p), bins)
    return float(sum(abs(p[part].mean() - label[part].mean()) * len(part) for part in parts) / len(p))


def bootstrap_ap(
    p: Floats, label: npt.NDArray[np.bool_], card: npt.NDArray[np.int64], *, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of average precision, cards (not rows) drawn with replacement."""
    rng = np.random.default_rng(seed)
    order = np.argsort(card, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(card[order])) + 1)
    found = []
    for _ in range(draws):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        found.append(average_precision(p[rows], label[rows]))
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))
