"""How alike the values of the two sides are: what differs by how much, marginals, ranks.

All counts on one fixed grid, and a sample of pairs by the lowest hashes: which pairs are in it depends neither on their
order nor on how they were merged, and it needs no chance. A histogram in two dimensions would have cost either the
ranks of neighbouring scores or, for a challenger that agrees in nothing, a hundred times the room.

PSI = sum over the incumbent's deciles of (c - i) ln(c / i), c and i the shares with half a pair added to every count:
an empty decile is no infinity. **Source** Lewis, "An Introduction to Credit Scoring", 1994.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.experiments import grid
from headrace.experiments.rows import Floats, Ints, Rows

LEAST: Final = 2_000
"""Pairs from which PSI and KS are said: without drift, PSI of 10 bins is still 0.09 in the mean at 200."""
LEAST_RANKED: Final = 100
SAMPLE: Final = 1_000
"""Pairs that ranks are taken of: a correlation r is off by about (1 - r²)/30."""
BINS: Final = 10
MOST: Final = 1e15
RANKS: Final = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
EDGES: Final[Floats] = np.concatenate([-(10.0 ** np.arange(4, -7, -0.5)), 10.0 ** np.arange(-6, 4.5, 0.5)])
"""Of the histogram that is shown; what is further out counts in the first or the last."""

_KEPT: Final = np.dtype([("key", "<u8"), ("incumbent", "<f4"), ("challenger", "<f4")])


class Agreement:
    """Values of the pairs whose both sides have one."""

    def __init__(self) -> None:
        self._deltas, self._incumbent, self._challenger = (np.zeros(grid.CELLS, np.int64) for _ in range(3))
        self._sample = np.zeros(0, _KEPT)

    def add(self, rows: Rows) -> None:
        of = rows.whole
        incumbent, challenger = rows.incumbent[of], rows.challenger[of]
        self._deltas += np.bincount(grid.cells(delta(incumbent, challenger)), minlength=grid.CELLS)
        self._incumbent += np.bincount(grid.cells(incumbent), minlength=grid.CELLS)
        self._challenger += np.bincount(grid.cells(challenger), minlength=grid.CELLS)
        new = np.zeros(len(incumbent), _KEPT)
        with np.errstate(over="ignore"):  # beyond 32 bits it is infinite, and still the highest
            new["key"], new["incumbent"], new["challenger"] = rows.keys[of], incumbent, challenger
        self._keep(new)

    def merge(self, other: Agreement) -> None:
        self._deltas += other._deltas
        self._incumbent += other._incumbent
        self._challenger += other._challenger
        self._keep(other._sample)

    def dump(self) -> dict[str, Any]:
        return {
            "deltas": grid.pack(self._deltas),
            "incumbent": grid.pack(self._incumbent),
            "challenger": grid.pack(self._challenger),
            "sample": b64encode(self._sample.tobytes()).decode(),
        }

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Agreement:
        self = cls()
        self._deltas = grid.unpack(dumped["deltas"], grid.CELLS)
        self._incumbent = grid.unpack(dumped["incumbent"], grid.CELLS)
        self._challenger = grid.unpack(dumped["challenger"], grid.CELLS)
        self._sample = np.frombuffer(b64decode(dumped["sample"]), _KEPT)
        return self

    @property
    def pairs(self) -> int:
        return int(self._deltas.sum())

    def delta_quantiles(self) -> list[tuple[float, float]]:
        """Rank and challenger's value less incumbent's, to about one per cent. Empty: no pairs."""
        return [(rank, grid.quantile(self._deltas, rank)) for rank in RANKS] if self.pairs else []

    def delta_histogram(self) -> Ints:
        """Counts between `EDGES`."""
        inside = np.clip(grid.MIDDLES, EDGES[0], EDGES[-2])
        return np.histogram(inside, EDGES, weights=self._deltas)[0].astype(np.int64)

    def psi(self) -> float | None:
        """Population stability index by the incumbent's deciles; None below `LEAST` pairs."""
        if self.pairs < LEAST:
            return None
        cuts = np.searchsorted(np.cumsum(self._incumbent), self.pairs * np.arange(1, BINS) / BINS)
        starts = np.unique(np.append(0, cuts + 1))  # many equal values: fewer bins
        starts = starts[starts < grid.CELLS]
        shares = [_shares(np.add.reduceat(side, starts)) for side in (self._incumbent, self._challenger)]
        return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())

    def ks(self) -> float | None:
        """Largest distance of the two distributions; None below `LEAST` pairs."""
        if self.pairs < LEAST:
            return None
        return float(np.abs(np.cumsum(self._incumbent - self._challenger)).max() / self.pairs)

    def rank_agreement(self) -> float | None:
        """Spearman's rank correlation of the sample, ties by their mean rank; None where there is nothing to rank."""
        if len(self._sample) < LEAST_RANKED:
            return None
        incumbent, challenger = _ranks(self._sample["incumbent"]), _ranks(self._sample["challenger"])
        if not np.ptp(incumbent) or not np.ptp(challenger):
            return None
        return float(np.corrcoef(incumbent, challenger)[0, 1])

    def _keep(self, new: npt.NDArray[Any]) -> None:
        if len(self._sample) == SAMPLE:  # most of what comes now has no place in it, and is not worth sorting
            new = new[new["key"] <= self._sample["key"][-1]]
        both = np.concatenate([self._sample, new])
        self._sample = np.sort(both, order=list(_KEPT.names or ()), kind="stable")[:SAMPLE]


def delta(incumbent: Floats, challenger: Floats) -> Floats:
    """Challenger's value less incumbent's, cut at `MOST` to either side: sums of them stay finite."""
    with np.errstate(over="ignore"):
        found: Floats = np.clip(challenger - incumbent, -MOST, MOST)
    return found


def _shares(counts: Ints) -> Floats:
    shares: Floats = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def _ranks(values: npt.NDArray[Any]) -> Floats:
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[at]
    return ranks
