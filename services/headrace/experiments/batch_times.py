"""What a batch takes at a replica, challenger to incumbent, at equal tokens.

Batches are laid into buckets nine per cent wide by their tokens; in each, both sides' medians are compared, and the
logarithms of the ratios are averaged with the weight n m / (n + m), one over the variance of a difference of two
medians. Medians: a replica that paused once is not slow. Weighted within equal tokens: one side's batches may well be
larger than the other's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from headrace.experiments import grid
from headrace.experiments.rows import Floats
from headrace.v1 import experiments_pb2 as pb

PER_OCTAVE_TOKENS: Final = 8
PER_OCTAVE_US: Final = 16
SHAPE: Final = (2, 20 * PER_OCTAVE_TOKENS, 26 * PER_OCTAVE_US)
"""Sides, tokens up to 2^20, microseconds up to 2^26 (a minute); what is beyond counts in the last."""
LEAST_IN_BUCKET: Final = 20
LEAST: Final = 200
"""Batches of either side in buckets that count: with times that stray by a fifth, the ratio strays by 2.5 per cent."""


class BatchTimes:
    """Times of batches by side and tokens."""

    def __init__(self) -> None:
        self._counts = np.zeros(SHAPE, np.int64)

    def add(self, batches: Iterable[pb.BatchTime]) -> None:
        told = np.array([(b.challenger, b.tokens, b.compute_us) for b in batches], np.int64).reshape(-1, 3)
        side, tokens, us = told[(told[:, 1:] > 0).all(1)].T
        tokens_at = np.log2(tokens) * PER_OCTAVE_TOKENS
        us_at = np.log2(us) * PER_OCTAVE_US
        at = (side, np.minimum(tokens_at.astype(int), SHAPE[1] - 1), np.minimum(us_at.astype(int), SHAPE[2] - 1))
        np.add.at(self._counts, at, 1)

    def merge(self, other: BatchTimes) -> None:
        self._counts += other._counts

    def dump(self) -> list[int]:
        return grid.pack(self._counts)

    @classmethod
    def load(cls, dumped: list[Any]) -> BatchTimes:
        self = cls()
        self._counts = grid.unpack(dumped, self._counts.size).reshape(SHAPE)
        return self

    def ratio(self) -> float | None:
        """Challenger to incumbent; None where too few batches were equal."""
        n = self._counts.sum(2)
        enough = (n >= LEAST_IN_BUCKET).all(0)
        n = n[:, enough]
        if not enough.any() or n.sum(1).min() < LEAST:
            return None
        incumbent, challenger = (_log_medians(side[enough]) for side in self._counts)
        return float(2 ** np.average(challenger - incumbent, weights=n[0] * n[1] / n.sum(0)))


def _log_medians(counts: Any) -> Floats:
    """log2 of the median of each row, straight between the edges of its bucket."""
    seen = np.cumsum(counts, 1)
    half = seen[:, -1:] / 2
    at = (seen < half).sum(1)
    row = np.arange(len(counts))
    inside = counts[row, at]
    medians: Floats = (at + (half[:, 0] - (seen[row, at] - inside)) / inside) / PER_OCTAVE_US
    return medians
