"""From a network's logit to a probability people can set thresholds on, and to a score that outlives the network.

`p` = sigmoid(a·logit + b), fitted on a later block of time than training (Platt), which also undoes the thinning
of legitimate rows in training; cards with a short history have a pair of their own. `score` = where `p` stands in
reference traffic, on a scale that is the same for every version: 25 is the top 10 %, 50 the top 1 %, 75 the top
0.1 %. So a threshold on it goes on raising as many alerts when the model is refreshed.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SCORES: Final = 100
DECADES: Final = 4.0
"""The score spans four decades of rarity: 99 is rarer than one in ten thousand."""
SHORT: Final = 3
"""Events, the payment in hand included, up to which a history counts as short."""
ENOUGH: Final = 30
"""Positives below which short histories share the calibration of the others."""

Floats = npt.NDArray[np.float64]


class Calibration(nn.Module):
    """The last step of a fraud model: no parameter of it is learnt by gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.platt: Tensor
        self.edges: Tensor
        self.register_buffer("platt", torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        """[2, 2]: (a, b) of ordinary and of short histories."""
        self.register_buffer("edges", torch.linspace(0, 1, SCORES)[1:].clone())
        """[99] ascending: the `p` from which on the score is 1, 2, … 99."""

    def forward(self, logit_B: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """(p float32 [B], score int32 [B]) of rows with so many events."""
        a_B, b_B = self.platt[(length_B <= SHORT).long()].unbind(1)
        p_B = torch.sigmoid(a_B * logit_B + b_B)
        return p_B, torch.searchsorted(self.edges, p_B.contiguous(), right=True).to(torch.int32)

    def fit(self, logit: Floats, length: npt.NDArray[np.int64], label: Floats, weight: Floats, kept: float) -> None:
        """Set everything from a block that was not trained on; `kept`: share of negatives that training saw."""
        short = length <= SHORT
        everybody = fit_platt(logit, label, weight, prior=float(np.log(kept)))
        few = fit_platt(logit[short], label[short], weight[short], *everybody) if label[short].sum() >= ENOUGH else None
        self.platt.copy_(torch.from_numpy(np.stack([everybody, everybody if few is None else few])))
        with torch.inference_mode():
            p, _ = self(torch.from_numpy(logit).float(), torch.from_numpy(length))
        self.edges.copy_(torch.from_numpy(score_edges(p.double().numpy(), weight)))

    def version(self) -> str:
        """A name for exactly these numbers: 12 hex digits."""
        numbers = np.concatenate([self.platt.cpu().numpy().ravel(), self.edges.cpu().numpy()]).astype("<f4")
        return hashlib.sha256(numbers.tobytes()).hexdigest()[:12]


def fit_platt(logit: Floats, label: Floats, weight: Floats, scale: float = 1.0, prior: float = 0.0) -> Floats:
    """(a, b) by damped Newton steps from (`scale`, `prior`) on.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    design = np.stack([logit, np.ones_like(logit)], 1)
    ab = np.array([scale, prior])
    loss = _log_loss(design @ ab, label, weight)
    for _ in range(100):
        p = sigmoid(design @ ab)
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (weight * (p - label)))
        # A full step may overshoot where the sigmoid is flat: halve it until the loss falls.
        while (found := _log_loss(design @ (ab - step), label, weight)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        ab, loss = ab - step, min(found, loss)
        if np.abs(step).max() < 1e-9:
            break
    return ab


def sigmoid(logit: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -logit))


def score_edges(p: Floats, weight: Floats) -> Floats:
    """The 99 probabilities at which the score of reference traffic rises by one, ascending. Ties stand together."""
    rarity = 10 ** (-DECADES * np.arange(1, SCORES) / (SCORES - 1))
    order = np.argsort(-p, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    edges: Floats = p[order][np.searchsorted(share, rarity, side="left").clip(max=len(p) - 1)]
    return edges


def _log_loss(logit: Floats, label: Floats, weight: Floats) -> float:
    return float((weight * np.logaddexp(0, np.where(label > 0, -logit, logit))).sum())
