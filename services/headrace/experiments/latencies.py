"""How long callers waited, by side, and which answers of the canary came late; and how long the copies took.

Late is later than 99 in 100 of the incumbent's answers to callers, as they stood *before* the message that is judged: a
threshold that is fixed before its answers are seen makes each an honest trial, and their rate may be read at every
look. Drawn from the same answers, the threshold would follow them. All answers to callers are judged, compared or not:
of a canary that queues, copies are shed, and its pairs would be those of its quick moments.

An hour is slower than another for everybody, and a threshold is of the past. So the incumbent's own answers are judged
by the same threshold, in the messages that bring answers of the canary: those late on both sides are the hour's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from headrace.core.octaves import BUCKETS, NEVER, PER_OCTAVE
from headrace.experiments import grid
from headrace.experiments.rows import Ints, Rows
from headrace.v1 import experiments_pb2 as pb

LEAST: Final = 500
"""Answers of the incumbent that its 99 in 100 is taken from: five of them lie beyond it."""


class Latencies:
    """Histograms of both sides, and the late answers of the canary and of the incumbent beside it."""

    SERIES: Final = ("incumbent", "challenger", "canary", "answered")
    """`canary` and `answered`: challenger and incumbent where callers asked them; the others: all pairs."""

    def __init__(self) -> None:
        self._counts = {name: np.zeros(BUCKETS, np.int64) for name in self.SERIES}
        self.late = self.judged = 0
        self.incumbent_late = self.incumbent_judged = 0

    def add(self, rows: Rows) -> None:
        """Count pairs, whoever answered."""
        self._counts["incumbent"] += _counted(rows.incumbent_us[rows.incumbent_error == 0])
        self._counts["challenger"] += _counted(rows.challenger_us[rows.challenger_error == 0])

    def add_answers(self, counts: pb.SampleCounts) -> None:
        """Judge what callers got, and count it. **Raises** ValueError: an entry of none of the buckets."""
        answered, canary = _filled(counts.incumbent_took), _filled(counts.challenger_took)
        self._judge(answered, canary)
        self._counts["answered"] += answered
        self._counts["canary"] += canary

    def merge(self, other: Latencies) -> None:
        for name, counts in other._counts.items():
            self._counts[name] += counts
        self.late += other.late
        self.judged += other.judged
        self.incumbent_late += other.incumbent_late
        self.incumbent_judged += other.incumbent_judged

    def dump(self) -> dict[str, Any]:
        counts = {name: grid.pack(counts) for name, counts in self._counts.items()}
        incumbent = self.incumbent_late, self.incumbent_judged
        return {"counts": counts, "late": self.late, "judged": self.judged, "incumbent": incumbent}

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Latencies:
        self = cls()
        self._counts = {name: grid.unpack(dumped["counts"][name], BUCKETS) for name in cls.SERIES}
        self.late, self.judged = int(dumped["late"]), int(dumped["judged"])
        self.incumbent_late, self.incumbent_judged = map(int, dumped.get("incumbent", (0, 0)))  # older sums: nobody's
        return self

    def latency(self, name: str) -> pb.Latency:
        """One of `SERIES`; zeros where nothing was measured."""
        counts = self._counts[name][:NEVER]
        if not (n := int(counts.sum())):
            return pb.Latency()
        p50, p99, p999 = (_quantile_us(counts, rank) / 1000 for rank in (0.5, 0.99, 0.999))
        return pb.Latency(count=n, p50_ms=p50, p99_ms=p99, p999_ms=p999)

    def _judge(self, incumbent: Ints, canary: Ints) -> None:
        answered = self._counts["answered"][:NEVER]
        if answered.sum() < LEAST or not canary.any():
            return
        late_from = int(np.searchsorted(np.cumsum(answered), 0.99 * answered.sum())) + 1
        self.late += int(canary[late_from:].sum())
        self.judged += int(canary.sum())
        self.incumbent_late += int(incumbent[late_from:].sum())
        self.incumbent_judged += int(incumbent.sum())


def _counted(us: Ints) -> Ints:
    """By bucket; 0 microseconds were not measured."""
    buckets = np.floor(np.log2(us[us > 0]) * PER_OCTAVE).astype(np.int64)
    counts: Ints = np.bincount(np.minimum(buckets, NEVER - 1), minlength=BUCKETS)
    return counts


def _filled(took: Mapping[int, int]) -> Ints:
    if max(took, default=0) >= BUCKETS:
        raise ValueError(f"took: {BUCKETS} entries at most")
    counts = np.zeros(BUCKETS, np.int64)
    for place, rows in took.items():
        counts[place] = rows
    return counts


def _quantile_us(counts: Ints, rank: float) -> float:
    """The middle of the bucket where the rank lies."""
    seen = np.cumsum(counts)
    return float(2 ** ((np.searchsorted(seen, rank * seen[-1]) + 0.5) / PER_OCTAVE))
