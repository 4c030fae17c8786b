"""How long callers would have waited, by side, and which answers of the canary came late.

Late is later than 99 in 100 of the incumbent's answers to callers, as they stood *before* the message that is judged: a
threshold that is fixed before its answers are seen makes each an honest trial, and their rate may be read at every
look. Drawn from the same answers, the threshold would follow them. The incumbent's latency as a shadow is no part of
it: a shadow waits last.

An hour is slower than another for everybody, and a threshold is of the past. So the incumbent's own answers are judged
by the same threshold, in the messages that bring answers of the canary: those late on both sides are the hour's.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from headrace.experiments import grid
from headrace.experiments.rows import Ints, Mask, Rows
from headrace.v1 import experiments_pb2 as pb

PER_OCTAVE: Final = 16
"""Buckets are 4.4 per cent wide, up to 2^32 microseconds."""
BUCKETS: Final = 32 * PER_OCTAVE + 1
LEAST: Final = 500
"""Answers of the incumbent that its 99 in 100 is taken from: five of them lie beyond it."""


class Latencies:
    """Histograms of both sides, and the late answers of the canary and of the incumbent beside it."""

    SERIES: Final = ("incumbent", "challenger", "canary", "answered")
    """`canary`: the challenger where it answered the caller; `answered`: the incumbent where it did."""

    def __init__(self) -> None:
        self._counts = {name: np.zeros(BUCKETS, np.int64) for name in self.SERIES}
        self.late = self.judged = 0
        self.incumbent_late = self.incumbent_judged = 0

    def add(self, rows: Rows) -> None:
        self._judge(rows)
        incumbent, challenger = rows.incumbent_error == 0, rows.challenger_error == 0
        self._count("incumbent", rows.incumbent_us[incumbent])
        self._count("challenger", rows.challenger_us[challenger])
        self._count("canary", rows.challenger_us[challenger & rows.canary])
        self._count("answered", rows.incumbent_us[incumbent & ~rows.canary])

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
        counts = self._counts[name]
        if not (n := int(counts.sum())):
            return pb.Latency()
        p50, p99, p999 = (_quantile_us(counts, rank) / 1000 for rank in (0.5, 0.99, 0.999))
        return pb.Latency(count=n, p50_ms=p50, p99_ms=p99, p999_ms=p999)

    def _judge(self, rows: Rows) -> None:
        answered = self._counts["answered"]
        canary = _Answers.of(rows.canary, rows.challenger_us, rows.challenger_error)
        if answered.sum() < LEAST or not canary.asked.any():
            return
        late_from = int(np.searchsorted(np.cumsum(answered), 0.99 * answered.sum())) + 1
        incumbent = _Answers.of(~rows.canary, rows.incumbent_us, rows.incumbent_error)
        self.late += canary.late(late_from)
        self.judged += int(canary.asked.sum())
        self.incumbent_late += incumbent.late(late_from)
        self.incumbent_judged += int(incumbent.asked.sum())

    def _count(self, name: str, us: Ints) -> None:
        self._counts[name] += np.bincount(_buckets(us[us > 0]), minlength=BUCKETS)


class _Answers(NamedTuple):
    """Of one side to callers, those that a time is known of."""

    asked: Mask
    timeout: Mask
    us: Ints

    @classmethod
    def of(cls, answers: Mask, us: Ints, error: Ints) -> _Answers:
        # A side that failed at once was not late, it has the errors' gate; one that ran out of time was.
        timeout = error == pb.PAIR_ERROR_TIMEOUT
        return cls(answers & ((error == 0) & (us > 0) | timeout), timeout, us)

    def late(self, late_from: int) -> int:
        """How many are as late as this bucket, or never came."""
        return int((self.asked & (self.timeout | (_buckets(self.us) >= late_from))).sum())


def _buckets(us: Ints) -> Ints:
    """The bucket of each; 0 microseconds were not measured."""
    found: Ints = np.floor(np.log2(np.maximum(us, 1)) * PER_OCTAVE).astype(np.int64)
    return found


def _quantile_us(counts: Ints, rank: float) -> float:
    """The middle of the bucket where the rank lies."""
    seen = np.cumsum(counts)
    return float(2 ** ((np.searchsorted(seen, rank * seen[-1]) + 0.5) / PER_OCTAVE))
