"""What is counted of the pairs of one comparison: sums that merge, in bounded room, and figures made of them.

Whoever holds them (control) adds messages, keeps the text of `dump` between two lives, and shows figures. It decides
nothing and keeps no pair but the sample that ranks are taken of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np

from headrace.experiments.agreement import EDGES, Agreement
from headrace.experiments.batch_times import BatchTimes
from headrace.experiments.flips import OTHER, FlipCounts, rate
from headrace.experiments.latencies import Latencies
from headrace.experiments.rows import KINDS, Rows, read
from headrace.v1 import experiments_pb2 as pb

FORMAT: Final = 1
"""Of `dump`. A text of another is refused: counts on another grid are not the same counts."""
MOST_CAUSES: Final = 16
"""Names of drops; those that come after them count as `other`."""
SIDES: Final = ("incumbent", "challenger")


class Comparison:
    """Mergeable sums of the pairs of one comparison. Thresholds ascend; a value of so much or more is blocked."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = tuple(float(threshold) for threshold in thresholds)
        if not self.thresholds or not all(map(isfinite, self.thresholds)):
            raise ValueError("thresholds: at least one, and numbers")
        self._sampled = self._pairs = self._canary = 0
        self._drops: Counter[str] = Counter()
        self._errors = np.zeros((2, KINDS), np.int64)  # by SIDES
        self._requests = np.zeros((2, 2), np.int64)  # by SIDES: asked for callers, failed
        self._agreement = Agreement()
        self._flips = FlipCounts(self.thresholds)
        self._latencies = Latencies()
        self._batch_times = BatchTimes()

    def add(self, columns: pb.PairColumns, counts: pb.SampleCounts) -> None:
        """Count what one message tells. **Raises** ValueError: a field is wrong, by name; nothing is counted then."""
        rows = read(columns)
        self._latencies.add_answers(counts)
        self._sampled += counts.sampled
        self._drop(counts.drops)
        self._requests += [(getattr(counts, f"{side}_requests"), getattr(counts, f"{side}_failures")) for side in SIDES]
        if len(rows):
            self._count(rows)
        if columns.batches:
            self._batch_times.add(columns.batches)

    def merge(self, other: Comparison) -> None:
        """Count what the other has counted as well. **Raises** ValueError: it has other thresholds."""
        if self.thresholds != other.thresholds:
            raise ValueError(f"thresholds: {other.thresholds} beside {self.thresholds}")
        self._sampled += other._sampled
        self._pairs += other._pairs
        self._canary += other._canary
        self._drop(other._drops)
        self._errors += other._errors
        self._requests += other._requests
        self._agreement.merge(other._agreement)
        self._flips.merge(other._flips)
        self._latencies.merge(other._latencies)
        self._batch_times.merge(other._batch_times)

    def dump(self) -> str:
        """All of it as JSON, compact: tens of kilobytes, however many pairs."""
        state = {
            "format": FORMAT,
            "thresholds": self.thresholds,
            "sampled": self._sampled,
            "pairs": self._pairs,
            "canary": self._canary,
            "drops": dict(sorted(self._drops.items())),
            "errors": self._errors.tolist(),
            "requests": self._requests.tolist(),
            "agreement": self._agreement.dump(),
            "flips": self._flips.dump(),
            "latencies": self._latencies.dump(),
            "batch_times": self._batch_times.dump(),
        }
        return json.dumps(state, separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Comparison:
        """What `dump` wrote. **Raises** ValueError: it did not, or another format."""
        try:
            state = json.loads(text)
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}, not {FORMAT}")
            return cls._loaded(state)
        except (KeyError, TypeError) as exc:
            raise ValueError("not the sums of a comparison") from exc

    def figures(self, alpha: float) -> pb.Figures:
        """As figures; each interval holds at every look with 1 - alpha. What is too little to be said is absent."""
        agreement, dropped = self._agreement, sum(self._drops.values())
        histogram = agreement.delta_histogram()
        return pb.Figures(
            sampled=self._sampled,
            pairs=self._pairs,
            drops=self._drops,
            pending=self._sampled - self._pairs - dropped,
            delta_quantiles=[pb.Quantile(rank=at, value=value) for at, value in agreement.delta_quantiles()],
            delta_histogram=pb.Histogram(edges=EDGES, counts=histogram),
            flips=self._flips.figures(alpha),
            rank_agreement=agreement.rank_agreement(),
            psi=agreement.psi(),
            ks=agreement.ks(),
            incumbent_errors=rate(int(self._errors[0, 1:].sum()), self._pairs, alpha),
            challenger_errors=rate(int(self._errors[1, 1:].sum()), self._pairs, alpha),
            challenger_timeouts=rate(int(self._errors[1, pb.PAIR_ERROR_TIMEOUT]), self._pairs, alpha),
            incumbent_latency=self._latencies.latency("incumbent"),
            challenger_latency=self._latencies.latency("challenger"),
            canary_latency=self._latencies.latency("canary"),
            canary_late=rate(self._latencies.late, self._latencies.judged, alpha),
            incumbent_late=rate(self._latencies.incumbent_late, self._latencies.incumbent_judged, alpha),
            batch_time_ratio=self._batch_times.ratio(),
            segments=self._flips.segments(alpha),
            canary_pairs=self._canary,
            incumbent_failures=self._failures("incumbent", alpha),
            challenger_failures=self._failures("challenger", alpha),
        )

    def _failures(self, side: str, alpha: float) -> pb.Rate:
        requests, failures = self._requests[SIDES.index(side)].tolist()
        return rate(min(failures, requests), requests, alpha)  # a gateway that counts otherwise stops no report

    def _count(self, rows: Rows) -> None:
        self._pairs += len(rows)
        self._canary += int(rows.canary.sum())
        self._errors[0] += np.bincount(rows.incumbent_error, minlength=KINDS)
        self._errors[1] += np.bincount(rows.challenger_error, minlength=KINDS)
        self._agreement.add(rows)
        self._flips.add(rows)
        self._latencies.add(rows)

    def _drop(self, drops: Mapping[str, int]) -> None:
        for cause, rows in sorted(drops.items()):
            known = cause in self._drops or len(self._drops) < MOST_CAUSES
            self._drops[cause if known else OTHER] += rows

    @classmethod
    def _loaded(cls, state: dict[str, Any]) -> Comparison:
        self = cls(state["thresholds"])
        self._sampled, self._pairs, self._canary = (int(state[name]) for name in ("sampled", "pairs", "canary"))
        self._drops = Counter(state["drops"])
        self._errors = np.array(state["errors"], np.int64).reshape(2, KINDS)
        if "requests" in state:  # sums that are older than these counts have none
            self._requests = np.array(state["requests"], np.int64).reshape(2, 2)
        self._agreement = Agreement.load(state["agreement"])
        self._flips = FlipCounts.load(state["flips"], self.thresholds)
        self._latencies = Latencies.load(state["latencies"])
        self._batch_times = BatchTimes.load(state["batch_times"])
        return self
